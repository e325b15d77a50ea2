"""Whole clips answered as a job's workers do it: a file's span decoded, then all its questions in one call.

Promises: `decode_clip` and the model that `load_model` gives, as a job does, in one process and without Ray; CPU
seconds of this process and of the decoders it started, nothing known from an earlier clip. Knows nothing about other
engines.

    python -m benchmarks.speed.clips_omnidrop CHECKPOINT DTYPE
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.speed.decoding import cpu_s
from benchmarks.speed.engine_omnidrop import serve
from omnidrop.model import Request
from omnidrop.models.base import ClipPrompt
from omnidrop.pruning import Pruning
from omnidrop.questions import Choice, Question
from workers.media.clip_reader import decode_clip
from workers.media.probing import ProbePool
from workers.model.answerer import load_model
from workers.model.settings import AnswererSettings
from workers.records import Clip, DecodedClip, DecodeSettings, MediaInfo


class Clips:
    """A loaded model that is asked about files."""

    def __init__(self, checkpoint: str, dtype: str) -> None:
        torch.set_num_threads(1)
        self._model = load_model(AnswererSettings(checkpoint, device="cpu", dtype=dtype))
        self._infos: dict[str, MediaInfo] = {}

    def probe(self, paths: Sequence[str]) -> None:
        """Read what the files hold, once, as a job's listing does. Raises ValueError for one that cannot be read."""
        with ProbePool(1) as pool:
            for path, (_, info) in zip(paths, pool.probe_many([(None, path) for path in paths]), strict=True):
                if not isinstance(info, MediaInfo):
                    raise ValueError(f"{path} cannot be probed: {info.message}")
                self._infos[path] = info

    def decode(self, path: str) -> DecodedClip:
        """The whole file as one clip."""
        info = self._infos[path]
        return decode_clip(path, info, Clip(path, 0, 0.0, info.duration_s), DecodeSettings())

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """`clip` as a file, `questions` as pairs of a text and its options, `mode`, `ratio` and `encoder_share`; `keep`
        is a file for what was decoded.

        Raises what decoding and answering raise.
        """
        ratio, path = asked.get("ratio"), str(asked["clip"])
        pruning = Pruning.off(asked["mode"])
        if ratio is not None:
            pruning = Pruning(asked["mode"], retained_ratio=ratio, encoder_share=asked.get("encoder_share", 1.0))
        questions = [
            Question(f"q{number}", text, Choice(tuple(options)))
            for number, (text, options) in enumerate(asked["questions"])
        ]
        adapter = self._model.adapter
        adapter.memory.clear()
        started = cpu_s()
        decoded = self.decode(path)
        of_decoding = cpu_s() - started
        given = self._model.answer(decoded.frames, decoded.audio, Request(questions, decoded.fps, pruning))
        spent = cpu_s() - started
        if asked.get("keep"):
            np.savez(asked["keep"], frames=decoded.frames, audio=decoded.audio)
        return {
            "cpu_s": spent,
            "decode_cpu_s": of_decoding,
            "fps": decoded.fps,
            "prompt_tokens": self._prompt_tokens(decoded, [text for text, _ in asked["questions"]]),
            "retained_ratio": given.trace.retained_ratio() or 1.0,
            "first_tokens": [adapter.answer_ids(one.text)[0] for one in given.answers],
        }

    def _prompt_tokens(self, decoded: DecodedClip, texts: Sequence[str]) -> list[int]:
        """Of each question asked alone, the clip in."""
        adapter, frames, audio = self._model.adapter, decoded.frames, decoded.audio
        size = (0, 0, 0) if frames is None else frames.shape[:3]
        samples = 0 if audio is None else len(audio)
        clip = adapter.processor.outline(size, samples, ClipPrompt(decoded.fps))
        return [clip.tokens + len(adapter.question_ids(text)) for text in texts]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    clips = Clips(*sys.argv[1:3])
    clips.probe(sys.argv[3:])
    serve(clips.ask)
