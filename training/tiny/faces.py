"""`python -m training.tiny.faces FOLDER`: the words of world v3 set in typefaces, for training and for what ships.

Promises: the two sets share no family. What ships is a picture of words, which no typeface's licence covers; no part of
a font file is in it. `FOLDER` holds font files at any depth, as Debian's packages of fonts do; users need none:
evaluation sets pages with the picture.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.toy_world.truth import WORDS
from pipeline.toy_world.writing import FACES, SHEET_BASE, SHEET_EM, SHEET_LINE, Faces

TRAINING = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansCondensed", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono"),
    *("LiberationSans-Regular", "LiberationSans-Bold", "LiberationSerif-Regular", "LiberationSerif-Bold"),
    *("LiberationMono-Regular", "LiberationSansNarrow-Bold", "FreeSansBold", "FreeSerif", "FreeMonoBold"),
    *("Lato-Regular", "Lato-Bold", "Roboto-Regular", "Roboto-Bold", "RobotoCondensed-Regular", "Cantarell-Regular"),
    *("Cantarell-Bold", "Inconsolata", "LinLibertine_R", "LinLibertine_RB", "LinBiolinum_R"),
    *("Carlito-Regular", "Carlito-Bold", "Cabin-Regular", "Cabin-Bold", "Vollkorn-Regular", "Vollkorn-Bold"),
    *("Dosis-Medium", "Dosis-Bold", "Comfortaa-Regular", "Comfortaa-Bold", "URWGothic-Book", "URWGothic-Demi"),
    *("URWBookman-Light", "C059-Roman", "P052-Roman", "NimbusMonoPS-Bold", "Hack-Regular", "Andika-Regular"),
    *("Jura-Medium", "Play-Regular", "OldStandard-Regular", "JunicodeTwoBeta-Regular", "VeranaSans-Regular"),
    *("GilliusADF-Regular", "UniversalisADFStd-Regular", "AccanthisADFStd-Regular", "Tuffy"),
)
HELD_OUT = (
    *("OpenSans-Regular", "OpenSans-Bold", "Caladea-Regular", "Caladea-Bold", "EBGaramond12-Regular"),
    *("Quicksand-Regular", "Quicksand-Bold", "ComicNeue-Regular"),
)
"""Names of font files without their suffix."""
GAP = 4
FACES_FILE = "faces.npz"


def made(folder: Path, names: Sequence[str]) -> Faces:
    """All words in the typefaces of these names. Raises SystemExit where `folder` lacks one."""
    found = {file.stem: file for file in sorted(folder.rglob("*")) if file.suffix in (".ttf", ".otf")}
    if missing := [name for name in names if name not in found]:
        raise SystemExit(f"{folder} has no font {', '.join(missing)}")
    lines, spans = [], []
    for name in names:
        font = ImageFont.truetype(str(found[name]), SHEET_EM)
        now, own = GAP, []
        line = Image.new("L", (GAP + len(WORDS) * (6 * SHEET_EM), SHEET_LINE))
        for word in WORDS:
            left, _, right, _ = font.getbbox(word, anchor="ls")
            ImageDraw.Draw(line).text((now - left, SHEET_BASE), word, fill=255, font=font, anchor="ls")
            own.append((now, now + int(right - left)))
            now += int(right - left) + GAP
        lines.append(np.asarray(line))
        spans.append(own)
    sheet = np.concatenate(lines)[:, : max(right for own in spans for _, right in own) + GAP]
    return Faces(sheet, np.asarray(spans, np.int64))


def training_faces(folder: Path, fonts: Path | None) -> Faces:
    """The faces of training, set from font files once and kept in `folder`."""
    kept = folder / FACES_FILE
    if not kept.exists():
        if fonts is None:
            raise ValueError(f"there is no {kept}, and no folder of font files to make it from")
        faces = made(fonts, TRAINING)
        np.savez_compressed(kept, sheet=faces.sheet, spans=faces.spans)
    with np.load(kept) as read:
        return Faces(read["sheet"], read["spans"])


def write_shipped(folder: Path, path: Path = FACES) -> None:
    """The picture of held-out faces, in sixteen greys, and an index of where each word lies."""
    faces = made(folder, HELD_OUT)
    Image.fromarray((faces.sheet // 17 * 17).astype(np.uint8)).quantize(16).save(path, optimize=True)
    rows = ",\n".join(json.dumps(own) for own in faces.spans.tolist())
    path.with_suffix(".json").write_text(f'{{"faces": {json.dumps(HELD_OUT)},\n"spans": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    write_shipped(Path(sys.argv[1]), *map(Path, sys.argv[2:]))
