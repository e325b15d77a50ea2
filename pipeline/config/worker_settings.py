"""What the sections of a job file mean to the workers: how clips are decoded, what is loaded and how it answers.

Promises: a job on a cluster, one file asked by hand and a clip explained later are decoded and answered alike. Knows
nothing about Ray, archives or results.
"""

from __future__ import annotations

from omnidrop.pruning import Pruning
from pipeline.config.sections import ClipsConfig, ExecutionConfig, ModelConfig, PruningConfig
from workers.model.settings import AnswererSettings
from workers.records import DecodeSettings


def decode_settings(clips: ClipsConfig, execution: ExecutionConfig) -> DecodeSettings:
    """How clips are decoded."""
    pixels = DecodeSettings.max_pixels if clips.max_pixels is None else clips.max_pixels
    return DecodeSettings(
        fps=clips.fps,
        max_pixels=pixels,
        timeout_s=execution.decode_timeout_s,
        confinement=execution.confinement,
        decoder=clips.decoder,
    )


def pruning_of(given: PruningConfig) -> Pruning:
    """How question sets are run. Raises PolicyError."""
    if given.policy == "none":
        return Pruning.off(given.mode)
    return Pruning(
        mode=given.mode,
        policy=given.policy,
        retained_ratio=given.retained_ratio,
        guidance=given.guidance,
        settings=tuple(given.settings.items()),
        encoder_share=given.encoder_share,
        still_levels=given.still_levels,
        read_left_out=given.read_left_out,
    )


def answerer_settings(
    model: ModelConfig,
    pruning: PruningConfig,
    *,
    torch_threads: int | None = None,
    audit_share: float = 0.0,
    weights_hash: str | None = None,
) -> AnswererSettings:
    """What a model actor loads."""
    return AnswererSettings(
        model=model.checkpoint,
        device=model.device,
        dtype=model.dtype,
        pruning=pruning_of(pruning),
        weights_hash=weights_hash,
        system_prompt=model.system_prompt,
        torch_threads=torch_threads,
        audit_share=audit_share,
    )
