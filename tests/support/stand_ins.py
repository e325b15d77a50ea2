"""A decode task and a model actor that misbehave on purpose, told by files in a folder.

Imports little: each of Ray's workers that runs one imports this module, and tests kill many.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray

from tests.support import rows
from workers.records import ClipFailure, DecodedClip, DecodeReport, Loaded

CLIP_BYTES = 300_000


def marked(folder, what, clip):
    """Whether a test asked for `what` at this clip; counts the asking in a file, as the process may die."""
    marker = Path(folder) / f"{what}-{clip.index}"
    if not marker.exists():
        return False
    times = int(marker.read_text())
    marker.write_text(str(times - 1))
    return times > 0


def decode(folder, clip, machine=""):
    time.sleep(random.random() * 0.05)
    if marked(folder, "kill-decode", clip):
        os.kill(os.getpid(), signal.SIGKILL)
    if marked(folder, "raise-decode", clip):
        raise ValueError("a bug in decoding")
    for error_class in ("storage", "decode_failed"):
        if marked(folder, error_class, clip) or (Path(folder) / f"{error_class}-on-{machine}").exists():
            return DecodeReport(ClipFailure(clip, "fetch", error_class, "as asked"), 0, machine=machine), None
    frames = np.full((CLIP_BYTES,), clip.index, np.uint8)
    if machine:
        (Path(folder) / f"decoded-on-{machine}").touch()
    return DecodeReport(None, frames.nbytes, machine=machine), DecodedClip(clip, frames, None, 2.0, 1.0, 0.1)


class Actor:
    """Answers with what it sees, or does what a file in the folder says."""

    def __init__(self, folder):
        self.folder = folder

    def load(self):
        if (Path(self.folder) / "bad-model").exists():
            raise ValueError("no weights here")
        if (Path(self.folder) / "deadly-model").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (Path(self.folder) / "slow-loading").exists():
            time.sleep(1)
        (Path(self.folder) / "loaded").touch()
        return Loaded("one", 0.1) if (Path(self.folder) / "actor-on-one").exists() else None

    def answer(self, decoded, asked, may_audit=True):
        answer_s = 0.3 if (Path(self.folder) / "slow-model").exists() else random.random() * 0.05
        time.sleep(answer_s)
        clip = decoded.clip
        if marked(self.folder, "kill-actor", clip) or (Path(self.folder) / "deadly-machine").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        # The answer is read off the pictures: a clip that got another's would say so.
        return replace(rows.result(clip, answer=str(int(decoded.frames[0]))), answer_s=answer_s)

    @ray.method(concurrency_group="making_ready")
    def make_ready(self, decoded, asked):
        (Path(self.folder) / f"readied-{decoded.clip.index}").touch()
        if marked(self.folder, "kill-readying", decoded.clip):
            os.kill(os.getpid(), signal.SIGKILL)

    def answer_batch(self, asked, *decoded):
        (Path(self.folder) / f"together-{len(decoded)}").touch()
        return [self.answer(one, asked) for one in decoded]

    def answer_whole(self, video, asked):
        _, lines = pickle.loads(asked)
        if marked(self.folder, "kill-actor", video):
            os.kill(os.getpid(), signal.SIGKILL)
        return rows.result(video, answer=lines[0].text)

    def describe(self):
        return f"stand-in in process {os.getpid()}"
