"""A clip's frames and sound as small pictures inside a page.

Promises: all pictures together stay below the bytes given, by growing smaller, never fewer. Knows nothing about tokens.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZES = ((360, 72), (280, 68), (220, 62), (170, 55), (120, 50), (80, 45))
"""(longer side in pixels, WebP quality), tried in turn."""
SAMPLE_RATE = 16_000
MEL_BINS = 80
MEL_COLUMNS = 3_000
"""Columns of the spectrogram's picture at most."""
DYNAMIC_RANGE = 8.0
"""Powers of ten below the loudest that are still shown, as in the models' own features."""
_HEAT = np.array(
    [
        *((0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122)),
        *((229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191)),
    ]
)
"""Black to pale yellow, evenly brighter: sound as heat, told apart by any eye."""


def thumbnails(frames: npt.NDArray[np.uint8], most_bytes: int) -> tuple[str, ...]:
    """(T, H, W, 3) RGB frames as T data addresses of together at most `most_bytes` characters, if sizes allow."""
    made: tuple[str, ...] = ()
    for side, quality in SIZES:
        made = tuple(_webp(Image.fromarray(frame), side, quality) for frame in frames)
        if sum(map(len, made)) <= most_bytes:
            break
    return made


def spectrogram_picture(audio: npt.NDArray[np.float32]) -> str:
    """(samples,) 16 kHz sound as a log-mel spectrogram, low tones at the bottom: a data address."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    hop = max(160, -(-len(audio) // MEL_COLUMNS))
    filters = mel_filter_bank(201, MEL_BINS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    mel = spectrogram(
        np.pad(audio, (0, max(0, 400 - len(audio)))),
        window_function(400, "hann"),
        frame_length=400,
        hop_length=hop,
        power=2.0,
        mel_filters=filters,
        log_mel="log10",
    )
    loud = np.clip((mel - mel.max()) / DYNAMIC_RANGE + 1.0, 0.0, 1.0)[::-1]
    place = loud * (len(_HEAT) - 1)
    low = np.minimum(place.astype(int), len(_HEAT) - 2)
    share = (place - low)[..., None]
    colours = _HEAT[low] * (1 - share) + _HEAT[low + 1] * share
    return _webp(Image.fromarray(colours.astype(np.uint8)), None, 60)


def evenly(count: int, most: int) -> Sequence[int]:
    """At most `most` of the numbers below `count`, evenly spread, from 0."""
    return range(count) if count <= most else [round(i * count / most) for i in range(most)]


def _webp(image: Image.Image, side: int | None, quality: int) -> str:
    if side is not None:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()
