"""Settings that a job gives and that do nothing beside its others.

Promises: only what is given, and differs from its default, is named. Knows nothing about what settings do.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from pipeline.config.job import JobConfig
from pipeline.config.locations import is_s3


def idle_settings(job: JobConfig, *, reads_context: bool) -> Iterator[str]:
    """A sentence for each. `job` is as given, without an output's own defaults; `reads_context` says whether its
    question set reads sidecars."""
    context = ("context.sidecars", "context.language", "context.subtitle_track", "context.max_tokens")
    rules = (
        (job.clips.cut == "fixed", "clips.cut is fixed", ("clips.max_length_s", "clips.scene_threshold")),
        (job.archive.sample is None, "archive.sample is not set", ("archive.seed",)),
        (not is_s3(job.archive.uri), "the archive is a folder", ("archive.endpoint_url", "archive.anonymous")),
        (is_s3(job.archive.uri), "the archive is a bucket", ("archive.follow_links",)),
        (not is_s3(job.output), "the output is a folder", ("storage.endpoint_url", "storage.sse")),
        (job.pruning.mode != "set_guided", f"pruning.mode is {job.pruning.mode}", ("pruning.guidance",)),
        (job.pruning.policy == "none", f"pruning.mode is {job.pruning.mode}", ("pruning.settings",)),
        (not reads_context, "the question set reads neither clip. nor media.meta", context),
    )
    for is_idle, why, names in rules:
        for name in names:
            section, _, field = name.rpartition(".")
            part = attrgetter(section)(job)
            default = type(part).model_fields[field].get_default(call_default_factory=True)
            if is_idle and field in part.model_fields_set and getattr(part, field) != default:
                yield f"{name} does nothing here: {why}"
    for name, value in job.variables.items():
        if isinstance(value, str) and ("{{" in value or "{%" in value):
            yield f"variables.{name} holds {value!r}, which is asked as it is: a variable is filled in, and no template"
