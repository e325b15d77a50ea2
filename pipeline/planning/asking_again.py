"""What would be asked again because a setting has changed, before anything is spent.

Promises: it is counted from what counts in the index, with the settings named; above a bound it is refused unless a
person says so. Knows nothing about commands, or how anything is asked.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omnidrop.errors import UserError
from pipeline.batches import batches
from pipeline.index.database import BATCH
from pipeline.planning.context import ContextReader, context_reader
from pipeline.planning.differences import changed_settings
from pipeline.planning.media_plan import named_versions
from pipeline.records.heads_and_runs import Head
from workers.records import Media

if TYPE_CHECKING:
    from pipeline.planning.open_job import Opened


class AsksAgain(UserError):
    """So much that has answers would be asked again that a person should say so."""

    error_class = "asks_again"


@dataclass(frozen=True)
class Again:
    """What is asked again for one reason."""

    reason: str
    clips: int
    model_s: float
    """What answering them took the model, when they were answered."""

    def __str__(self) -> str:
        took = f"{self.model_s / 3600:.1f} h" if self.model_s >= 360 else f"{self.model_s:.0f} s"
        return f"{self.reason}: {self.clips:,} answered clips, which took the model {took}"


def asked_again(opened: Opened) -> list[Again]:
    """What counts for the job, has answers, and would be asked again in full since settings have changed.

    Items that the archive does not list any more are counted, too: that is not known before it is listed.
    """
    index, recipe = opened.index, opened.recipe
    alike = {source.recipe_hash for source in opened.sources} | {recipe.hash}
    heads = (head for head in index.listed(opened.job.name, but=alike) if head.clips)
    context = context_reader(opened.job, recipe.context_fields, index=opened.index)
    clips: Counter[str] = Counter()
    took: defaultdict[str, float] = defaultdict(float)
    for batch in batches(heads, BATCH):
        names = {head.version_id: _names(opened, head, context) for head in batch}
        known = index.known_versions([name for found in names.values() for name in found])
        left = {head.version_id: head.recipe_hash for head in batch if known.isdisjoint(names[head.version_id])}
        # Copies share a version; a failed item has no answers.
        for version, (count, seconds) in index.model_seconds(sorted(left)).items():
            clips[left[version]] += count
            took[left[version]] += seconds
    return [
        Again("; ".join(_why(opened.recipes.get(then), recipe.fields)), count, took[then])
        for then, count in clips.most_common()
    ]


def _why(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    return ["settings of which there is no record"] if then is None else changed_settings(then, now)


def _names(opened: Opened, head: Head, context: ContextReader | None) -> list[str]:
    """What the item is called under the present recipe."""
    media = Media(head.media_id, head.media_key, head.uri, head.etag, head.size_bytes, head.mark, head.content_id)
    if context is not None:
        probed = opened.index.probes([media]).get(media.media_id)
        media = context.read(media, None if probed is None else probed.info).of_item(media)
    earlier = opened.earlier.versions(media, [head]) if opened.earlier else []
    return [version.version_id for version in (*named_versions(media, opened.recipe), *earlier)]


def refuse_asking_again(opened: Opened, limit: int) -> None:
    """Raises AsksAgain where more than `limit` answered clips would be asked again."""
    found = asked_again(opened)
    if sum(one.clips for one in found) > limit:
        raise AsksAgain(
            "answered clips would be asked again:\n"
            + "".join(f"  {one}\n" for one in found)
            + f"That is more than execution.max_asked_again ({limit}) allows without a word: `omnidrop plan` prices "
            "it, `--yes` does it, and with the setting as it was nothing is asked again"
        )
