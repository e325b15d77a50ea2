"""Which hostile files there are, in an order that a seed decides: all crafted ones, and damage without end.

Promises: the same seed and ffmpeg give the same files in the same order; the first N are a fair mix of all kinds; every
border of the files named in `EVERY_BORDER` is cut at once the list is long enough. Knows nothing about running them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from tests.robustness.fuzz_media import bombs, crafted, mutations, references
from tests.robustness.fuzz_media.seeds import Seed, make
from tests.robustness.fuzz_media.structure import borders

EVERY_BORDER = ("fast.mp4", "fragmented.mp4", "plain.mkv", "live.webm")
"""Cut at every box and element; the others at one border in `BORDER_STEP`."""
BORDER_STEP = 6

WEIGHTS: Mapping[str, float] = {"truncated": 12.0, "referring": 3.0, "embedding": 1.5, "named": 1.0, "bomb": 1.0}
"""How often a kind's turn comes; 1 for the kinds of damage and 0.7 for crafted files."""

NAMES = (
    *("new\nline.mp4", "carriage\rreturn.mkv", "tab\there.mp4", "'single'.mp4", '"double".mkv', "back`tick`.mp4"),
    *("semi;colon.mp4", "pipe|pipe.mkv", "dollar$(touch owned).mp4", "&& touch owned.mp4", "back\\slash.mkv"),
    *("-i.mp4", "--help.mkv", "-", "- .mp4", "%d%03d.mp4", "%s%n%x.mkv", "file:plain.mp4", "http:plain.mp4"),
    *("concat:a|b.mp4", "subfile,,start,0,end,9,,:x.mp4", "pipe:0.mp4", "fd:.mp4", "data:,x.mp4", "C:\\x.mp4"),
    *("..mp4", "... .mp4", "..%2f..%2fetc%2fpasswd.mp4", "..\\..\\etc\\passwd.mp4", "~.mp4", "~root.mp4"),
    *("name.mp4\u202e4pm.exe", "ünï.mp4", "名前→.mkv", "😀😀.mp4", "e\u0301.mp4", "\u00e9.mp4", "zero\u200bwidth.mp4"),
    *(
        " leading.mp4",
        "trailing .mp4 ",
        "dot.",
        "no-suffix",
        "UPPER.MP4",
        "wrong.txt",
        "many.mp4.mkv.avi",
        "[a-z]*?.mp4",
    ),
    *("{{ 7*7 }}.mp4", "{% raw %}.mkv", "<script>.mp4", "key=value.mp4", "x" * 240 + ".mp4", "ж" * 120 + ".mp4"),
    *("\x01\x1b[31m.mp4", "\x7f.mp4", "\u2028.mp4", "\ufeffbom.mp4", "#fragment?query=1.mp4", "a,b;c=[d].mp4"),
    *("bad\udcff\udcfe.mp4", "\udc80.mkv", "latin\udce9.mp4", "half\udcf0\udc9f.mp4"),
)
"""Of intact files; the last four are not UTF-8."""


@dataclass(frozen=True)
class Trial:
    """One hostile file."""

    kind: str
    name: str
    """Its file name, with `surrogateescape` for bytes that are not UTF-8."""
    write: Callable[[Path], None]
    is_intact: bool = False
    """Nothing is wrong with the content: it must be answered, unless its name cannot be text."""

    @property
    def is_text(self) -> bool:
        """Whether the name is UTF-8."""
        return not any("\udc80" <= character <= "\udcff" for character in self.name)


def trials(seeds: Sequence[Seed], seed: int, bait: references.Bait, kinds: Sequence[str] = ()) -> Iterator[Trial]:
    """All kinds, or those named, interleaved by weight: without end while a kind of damage is among them."""
    groups = {name: group for name, group in _groups(seeds, seed, bait).items() if not kinds or name in kinds}
    spent = dict.fromkeys(groups, 0.0)
    while groups:
        name = min(groups, key=lambda n: spent[n])
        trial = next(groups[name], None)
        if trial is None:
            del groups[name]
            continue
        spent[name] += 1 / WEIGHTS.get(name, 0.7 if name in crafted.RECIPES else 1.0)
        yield trial


def _groups(seeds: Sequence[Seed], seed: int, bait: references.Bait) -> dict[str, Iterator[Trial]]:
    by_name = {s.name: s for s in seeds}

    def shuffled(name: str, found: Sequence[Trial]) -> Iterator[Trial]:
        return iter(random.Random(f"{seed}:{name}").sample(found, len(found)))

    groups = {
        "truncated": chain(
            shuffled("every border", [*_truncated([s for s in seeds if s.name in EVERY_BORDER], 1)]),
            shuffled("some borders", [*_truncated([s for s in seeds if s.name not in EVERY_BORDER], BORDER_STEP)]),
        ),
        "named": shuffled("named", [*_named(by_name)]),
        "bomb": shuffled("bomb", [*_bombs(by_name)]),
        "referring": shuffled("referring", [*_written("referring", references.playlists(bait))]),
        "embedding": shuffled("embedding", [*_written("embedding", references.embedded(bait, by_name))]),
        "empty": iter(
            [*_written("empty", {"empty.mp4": b"", "byte.mkv": b"\0", "newline.ts": b"\n", "riff.wav": b"RIFF"})]
        ),
    }
    for kind, recipes in crafted.RECIPES.items():
        groups[kind] = shuffled(kind, [Trial(kind, name, _maker(recipe)) for name, recipe in recipes.items()])
    for kind, mutation in mutations.KINDS.items():
        groups[kind] = _damaged(kind, mutation, seeds, seed)
    return groups


def _damaged(kind: str, mutation: mutations.Mutation, seeds: Sequence[Seed], seed: int) -> Iterator[Trial]:
    number = 0
    order = random.Random(f"{seed}:{kind}")
    while True:
        for found in order.sample(seeds, len(seeds)):
            write = partial(_write_damaged, mutation, found, f"{seed}:{kind}:{number}", seeds)
            yield Trial(kind, f"{number}-{found.name}", write)
            number += 1


def _truncated(seeds: Sequence[Seed], step: int) -> Iterator[Trial]:
    for found in seeds:
        for border in borders(found)[::step]:
            yield Trial("truncated", f"{border}-{found.name}", _writer(found.content[:border]))


def _named(seeds: Mapping[str, Seed]) -> Iterator[Trial]:
    for name in NAMES:
        content = seeds["plain.mkv" if ".mkv" in name else "plain.mp4"].content
        yield Trial("named", name, _writer(content), is_intact=True)


def _bombs(seeds: Mapping[str, Seed]) -> Iterator[Trial]:
    # Made when their turn comes: some take a second and a hundred MB to make.
    for name, content in bombs.BYTES.items():
        yield Trial("bomb", name, partial(_write_bomb, content, seeds))
    for name, build in bombs.FILES.items():
        yield Trial("bomb", name, partial(build, seeds=seeds))


def _write_damaged(mutation: mutations.Mutation, found: Seed, key: str, seeds: Sequence[Seed], path: Path) -> None:
    path.write_bytes(mutation(found, random.Random(key), seeds))


def _write_bomb(content: Callable[[bombs.Seeds], bytes], seeds: bombs.Seeds, path: Path) -> None:
    path.write_bytes(content(seeds))


def _written(kind: str, contents: Mapping[str, bytes]) -> Iterator[Trial]:
    for name, content in contents.items():
        yield Trial(kind, name, _writer(content))


def _writer(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def _maker(arguments: tuple[str, ...]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        make(*arguments, str(path))

    return write
