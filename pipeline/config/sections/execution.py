"""`execution`: how work is spread, bounded and retried."""

from __future__ import annotations

import os
from typing import Self

from pydantic import Field, field_validator, model_validator

from pipeline.config.sections.section import Section
from workers.media.confinement import Required

IN_PROCESS = "in-process"
"""The address of no Ray."""


class ExecutionConfig(Section):
    """How work is spread, bounded and retried."""

    ray_address: str | None = Field(
        default=None,
        description="Ray cluster: an address, `auto`, or `in-process` (no Ray). Default: start a local cluster.",
    )
    clips_per_unit: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Clips per work unit. A work unit is stored and retried as a whole.",
    )
    bytes_in_flight: int = Field(
        default=1 << 30,
        ge=1 << 20,
        description="Maximum bytes of decoded clips waiting for a model actor, over the whole cluster.",
    )
    decode_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Timeout for decoding one clip, in seconds of wall-clock time.",
    )
    probe_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="Timeout for probing one media item, in seconds of wall-clock time.",
    )
    max_deaths_per_clip: int = Field(
        default=2, ge=1, le=100, description="Quarantine a clip after this many workers died while processing it."
    )
    max_deaths_per_worker: int = Field(
        default=5,
        ge=2,
        le=1000,
        description="Stop the run after this many consecutive deaths of one model actor. Must be above "
        "max_deaths_per_clip.",
    )
    max_retries: int = Field(default=2, ge=0, le=100, description="Maximum retries after a transient failure.")
    max_asked_again: int = Field(
        default=100,
        ge=0,
        description="Maximum number of answered clips that a run answers again because a setting changed. More need "
        "--yes or a confirmation at the terminal.",
    )
    cache_dir: str | None = Field(
        default=None,
        description="Absolute path of the folder on each machine that caches files from S3. Default: a folder in the "
        "system's temporary folder.",
    )
    cache_bytes: int = Field(
        default=20 << 30,
        ge=1 << 20,
        description="Maximum cache size per machine in bytes. A larger file is read in blocks and not cached.",
    )
    fetch_streams: int = Field(
        default=8, ge=1, le=64, description="Parallel requests per file that is fetched from S3."
    )
    decode_tasks: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Maximum number of parallel decode tasks. Default: the number of free CPU cores.",
    )
    actor_idle_s: float = Field(
        default=120.0,
        ge=1,
        description="Release a model actor after this many idle seconds (one always stays). A new one starts when clips"
        " pile up.",
    )
    confinement: Required = Field(
        default="auto",
        description="Minimum sandboxing of the processes that read media. auto: whatever the kernel supports, with a "
        "warning if that is not everything. landlock+seccomp: refuse to run with less. rlimits: resource "
        "limits are enough.",
    )
    stop_grace_s: float = Field(
        default=60.0, ge=0, description="Seconds that running work units get to finish after SIGTERM or Ctrl-C."
    )

    @property
    def is_on_a_cluster(self) -> bool:
        """Whether the job's models run on a Ray that stands already, perhaps on other machines than this one."""
        return (self.ray_address or os.environ.get("RAY_ADDRESS") or IN_PROCESS) != IN_PROCESS

    @field_validator("cache_dir")
    @classmethod
    def _is_absolute(cls, folder: str | None) -> str | None:
        if folder is not None and not folder.startswith("/"):
            raise ValueError(
                f"{folder!r} is not an absolute path; give the path of a folder on every machine that decodes"
            )
        return folder

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_deaths_per_worker <= self.max_deaths_per_clip:
            # Otherwise one poisonous clip retires a healthy worker before the clip itself is blamed.
            raise ValueError(
                f"max_deaths_per_worker ({self.max_deaths_per_worker}) must be above max_deaths_per_clip "
                f"({self.max_deaths_per_clip})"
            )
        return self
