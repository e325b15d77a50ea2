"""What a plan left out or took over, in sentences for the person who asked.

Promises: what was noticed is counted and said. Knows nothing about commands.
"""

from __future__ import annotations

from collections.abc import Iterator

from omnidrop import policies
from omnidrop.pruning import DENSE_MODES
from pipeline.config.sections import PruningConfig
from pipeline.planning.planner import Planner

NAMED = 5
"""Keys that a sentence names."""

READING_PAYS = 0.08, 0.2
"""Retained ratios between which what does not enter the decoder is worth reading: see `docs/guide/choosing.md`."""


def advice(pruning: PruningConfig) -> Iterator[str]:
    """What evidence says of these settings."""
    ratio, (least, most) = pruning.retained_ratio, READING_PAYS
    is_ours = pruning.mode not in DENSE_MODES and pruning.policy == "omnidrop"
    is_whole = pruning.encoder_share == 1 and not pruning.still_levels
    if (
        is_ours
        and is_whole
        and ratio is not None
        and least <= ratio <= most
        and "read_left_out" not in pruning.settings
    ):
        yield (
            f"at {100 * ratio:.3g} % kept, `pruning.settings: {{read_left_out: true}}` may lose less: on the toy "
            "worlds it gained 0.7 points of accuracy at 20 % and 1.8 at 10 %, for a few per cent more FLOPs and a KV "
            "cache nearly as large as unpruned"
        )


def planner_notes(planner: Planner) -> Iterator[str]:
    """Sentences about one pass over an archive."""
    pruning = planner.job.pruning
    if remark := policies.remark(pruning.policy, pruning.settings):
        yield f"pruning.settings: {remark}"
    if planner.forgotten_here:
        keys = [media.key for media in planner.forgotten_here]
        named = ", ".join(keys[:NAMED]) + (", ..." if len(keys) > NAMED else "")
        yield (
            f"{len(keys)} forgotten {_files(len(keys))} in the archive and skipped: {named}; `omnidrop forget "
            "--undo --media KEY` lifts the ban"
        )
    if planner.kept_clips:
        yield f"{planner.kept_clips} clips keep their answers; only new questions are asked"
    if planner.copies:
        yield f"{planner.copies} of the media are exact copies of others: asked once, answered under each key"
    if planner.relabelled:
        fields = ", ".join(f"media.{name}" for name in planner.recipe.key_fields)
        yield (
            f"{planner.relabelled} clips are asked again because the files were moved or renamed and the questions "
            f"read {fields}"
        )
    if planner.context is not None:
        yield f"context: {planner.context.counts.line}"
    if planner.older:
        yield (
            f"{planner.older} clips keep answers of an older version of decoding or method (column "
            "answer_format); `omnidrop index --redo-older` answers them again, `plan --redo-older` shows the cost"
        )


def _files(count: int) -> str:
    return "file is" if count == 1 else "files are"
