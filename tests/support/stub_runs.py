"""Whole runs without ffmpeg and without a model: small text files are the videos, answers follow from what they hold.

Everything else is real: listing, hashing, planning, journal, index, publishing, commands. What is asked is written
down, so that a test can say how often: (what the file holds, span, question).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from omnidrop.answers import Answer, ClipAnswers, Cost, LayerCount, PassCost, TraceCounts
from omnidrop.errors import ModelError
from omnidrop.questions import Boolean, Choice
from pipeline.archive import probing
from pipeline.execution import in_process
from pipeline.runs import run as run_module
from workers.errors import NotMedia
from workers.media.decode import Source, opened
from workers.model.answerer import Answerer as RealAnswerer
from workers.records import ClipFailure, ClipResult, DecodedClip, DecodeSettings, MediaInfo

QUESTIONS = """\
name: stub
version: "1"
questions:
  - {id: shape, text: "Which shape is shown?", answer: {type: choice, options: [circle, square]}}
  - {id: heard, text: "Is a tone heard?", answer: {type: boolean}}
"""
CLIP_S = 10.0


def video(path, text, clips=2):
    """A file that the stub takes for a video of so many clips; what it holds decides its answers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{clips} {text}")
    return path


class Asked(Counter):
    """How often each (what the file holds, start, question) was asked."""

    times = 0

    def __init__(self):
        super().__init__()
        self.texts = []
        """What was read about whole videos."""
        self.tokens_a_word = 1
        self.breaks = False
        """Whether the model fails over texts."""

    def clips(self):
        """How many clips, each time counted."""
        return self.times


@contextmanager
def stub_runs():
    """Within the block runs are stubs in this process; gives an `Asked`."""
    asked = Asked()

    @contextmanager
    def prober(job, *, scans=True, elsewhere=None, early=None):
        def probe(items):
            for media in items:
                found = probing.Probed(_info(_text(media, probing.source(job))))
                if isinstance(found.info, ClipFailure):
                    found = probing.Probed(None, found.info)
                yield media, probing._read(media, found, job, probing.source(job))

        yield probe

    def decode_one(media, info, clip, settings, source=None):
        text = _text(media, source or Source())
        held = np.frombuffer(text.encode().ljust(400), np.uint8).astype(np.float32)
        return DecodedClip(clip, None, held, settings.fps, 1.0, 0.001)

    class Answerer:
        def __init__(self, settings):
            self.settings = settings

        def describe(self):
            return "stub"

        def answer(self, decoded, questions, instruction=""):
            text = bytes(decoded.audio.astype(np.uint8)).decode().strip()
            answers = []
            asked.times += 1
            for question in questions:
                asked[text, decoded.clip.start_s, question.text] += 1
                digest = hashlib.sha256(f"{text}/{decoded.clip.start_s}/{question.text}".encode()).digest()[0]
                answers.append(_answer(question, digest))
            cost = PassCost(100, 1000, 0, 100, 0, 100)
            layers = (LayerCount(0, 10, 30),)
            made = ClipAnswers(tuple(answers), Cost(cost, cost, cost, 0.01, None), TraceCounts(10, 30, layers))
            return ClipResult(decoded.clip, made, 2.0, 0, len(decoded.audio), 1.0, 0.001, 0.01)

        def text_tokens(self, text):
            return asked.tokens_a_word * len(text.split())

        def answer_text(self, text, questions):
            asked.texts.append(text)
            if asked.breaks:
                raise ModelError("the stub breaks")
            digest = hashlib.sha256(text.encode()).digest()[0]
            cost = PassCost(len(text.split()), 500, 0, 0, 0, 50)
            answers = tuple(_answer(question, digest) for question in questions)
            return ClipAnswers(answers, Cost(cost, cost, cost, 0.02, None), TraceCounts(0, 0, ()))

        answer_whole = RealAnswerer.answer_whole

    with (
        mock.patch.object(run_module, "prober", prober),
        mock.patch("pipeline.cost.estimate.prober", prober),
        mock.patch.object(in_process, "decode_one", decode_one),
        mock.patch.object(in_process, "Answerer", Answerer),
        mock.patch("pipeline.planning.feasibility.check_reachable"),
        mock.patch("jobs.index.check_ffmpeg"),
    ):
        yield asked


def _info(text):
    first = text.split(" ")[0]
    if not first.isdigit():
        return ClipFailure(None, "probe", NotMedia.error_class, "not a video")
    return MediaInfo("mov,mp4", CLIP_S * int(first), video_codec="h264", width=64, height=48, frame_rate=10.0)


def _text(media, source):
    with opened(media, DecodeSettings(), source) as path:
        return Path(path).read_text()


def _answer(question, digest):
    match question.answer:
        case Choice(options=options):
            value = options[digest % len(options)]
            return Answer(question.id, value, value, 0.9, 0.8)
        case Boolean():
            return Answer(question.id, digest % 2 == 0, "yes" if digest % 2 == 0 else "no", 0.7, 0.4)
    raise AssertionError(question)
