"""`model`: which checkpoint answers, and on what."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.sections.section import Section


class ModelConfig(Section):
    """Which checkpoint answers, and on what."""

    path: str = Field(
        default="tiny",
        min_length=1,
        description="Checkpoint: a folder, a hub id, or `tiny` (a small embedded model for trials).",
        json_schema_extra={"option": "--model"},
    )
    revision: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$",
        description="Commit, tag or branch of a hub checkpoint. With a commit, the weights never change. Without a "
        "revision, each run uses the hub's latest commit and records it.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        description="auto, cpu, cuda or cuda:N.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Data type of the weights. auto: bfloat16 on a GPU, float32 on a CPU."
    )
    system_prompt: str | None = Field(
        default=None, max_length=20_000, description="System prompt. Default: the model family's own."
    )
    actors: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = Field(
        default="auto",
        description="Number of model actors. auto: one per GPU of the cluster, or one if there is no GPU.",
    )
    gpus_per_actor: Annotated[float, Field(ge=0, le=16)] | Literal["auto"] | None = Field(
        default=None,
        description="GPUs per model actor. Default: 1 on a GPU cluster, otherwise 0. auto: as many actors per GPU as "
        "fit into its memory, as measured by `omnidrop calibrate`.",
    )
    cpus_per_actor: float = Field(default=1.0, gt=0, le=1024, description="CPU cores per model actor.")
    clips_per_pass: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        default=1,
        description="Batch size: up to this many clips of the same shape and question set go through the model in one "
        "pass. auto: the fastest batch size that `omnidrop calibrate` measured.",
    )

    @model_validator(mode="after")
    def _revision_of_the_hub(self) -> Self:
        if self.revision is not None and (self.path.startswith(("/", ".", "~")) or self.path.count("/") != 1):
            raise ValueError(
                f"revision ({self.revision}) is only for hub checkpoints, for example Qwen/Qwen2.5-Omni-3B; path is "
                f"{self.path}"
            )
        return self

    @property
    def checkpoint(self) -> str:
        """What is loaded: `path`, of the hub with its revision."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"
