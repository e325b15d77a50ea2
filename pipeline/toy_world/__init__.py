"""The toy worlds: short clips of shapes and sounds with known truth, rendered to real media files.

Promises: a clip is a function of (world, seed) alone, its truth travels in a small JSON file, and questions with right
answers are made from that truth, whichever renderer made the clip. Knows nothing about models, training or pruning.
"""

from pipeline.toy_world.encode import FORMATS, Format, RenderedClip, format_of, render_clip
from pipeline.toy_world.questions import AskedQuestion, questions_of
from pipeline.toy_world.truth import Event, Truth, read_truth, write_truth
from pipeline.toy_world.world import COLOURS, PLACES, SHAPES, SOUNDS, events_of

__all__ = [
    "COLOURS",
    "FORMATS",
    "PLACES",
    "SHAPES",
    "SOUNDS",
    "AskedQuestion",
    "Event",
    "Format",
    "RenderedClip",
    "Truth",
    "events_of",
    "format_of",
    "questions_of",
    "read_truth",
    "render_clip",
    "write_truth",
]
