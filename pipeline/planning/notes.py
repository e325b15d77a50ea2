"""What a plan left out or took over, in sentences for the person who asked.

Promises: what was noticed is counted and said. Knows nothing about commands.
"""

from __future__ import annotations

from collections.abc import Iterator

from omnidrop import policies
from pipeline.planning.planner import Planner

NAMED = 5
"""Keys that a sentence names."""


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
