"""Clips as archives really hold them: noise on what the encoders say, and media that was compressed, dark or echoing.

Promises: the same clip and condition give the same damage; what is asked and what is right stay as they were. Knows
nothing about pruning.
"""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from omnidrop.models.base import AUDIO, VIDEO, Prefix
from workers.media.ffmpeg import find_ffmpeg

CLEAN = "clean"
NOISE = {"features + 0.2": 0.2, "features + 0.4": 0.4, "features + 0.7": 0.7}
"""Gaussian noise on the encoders' features, relative to their root mean square, by condition."""
FILTERS = {
    "strong compression": ["-c:v", "libx264", "-crf", "42", "-preset", "veryfast", "-c:a", "libopus", "-b:a", "16k"],
    "low light": [
        *("-vf", "eq=brightness=-0.25:contrast=0.45,noise=alls=14:allf=t"),
        *("-c:v", "libx264", "-crf", "20", "-preset", "veryfast", "-c:a", "copy"),
    ],
    "reverberation": ["-c:v", "copy", "-af", "aecho=0.8:0.9:40|90|160|240:0.5|0.4|0.3|0.2", "-c:a", "libopus"],
}
"""ffmpeg's options that damage a file, by condition."""
CONDITIONS = (*NOISE, *FILTERS)


def damaged_file(path: Path, condition: str, folder: Path) -> Path:
    """A copy of the media file in `folder` with the damage of a condition in FILTERS, made once."""
    out = folder / f"{path.stem}-{hashlib.sha256(condition.encode()).hexdigest()[:8]}.mkv"
    if not out.exists():
        partial = out.with_suffix(".part.mkv")
        command = [find_ffmpeg(), "-v", "error", "-nostdin", "-y", "-i", str(path), *FILTERS[condition], str(partial)]
        subprocess.run(command, check=True, timeout=300)
        partial.rename(out)
    return out


def noisy(prefix: Prefix, strength: float) -> Prefix:
    """The prefix with noise on its audio and video features, of `strength` times each modality's root mean square."""
    draw = torch.Generator().manual_seed(prefix.input_ids.shape[0])

    def spoiled(rows: Tensor) -> Tensor:
        rows = rows.clone()
        for kind in (AUDIO, VIDEO):
            of = prefix.modality == kind
            if of.any():
                features = rows[of]
                noise = torch.randn(features.shape, generator=draw).to(features)
                rows[of] = features + strength * features.float().pow(2).mean().sqrt().to(features.dtype) * noise
        return rows

    return replace(
        prefix, embeddings=spoiled(prefix.embeddings), deepstack=tuple(spoiled(rows) for rows in prefix.deepstack)
    )
