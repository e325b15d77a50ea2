"""`clips`: how a media item is cut into clips, and how clips are sampled."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.sections.section import Section

_LANGUAGE = r"lang:[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*"
AudioTrack = Annotated[str, Field(pattern=rf"^(auto|all|[0-9]{{1,3}}|{_LANGUAGE})$")]
VideoTrack = Annotated[str, Field(pattern=rf"^(auto|[0-9]{{1,3}}|{_LANGUAGE})$")]


class ClipsConfig(Section):
    """How a media item is cut into clips, and how clips are sampled."""

    length_s: float = Field(default=30.0, ge=0.5, le=3600, description="Clip length in seconds.")
    overlap_s: float = Field(
        default=0.0, ge=0, description="Overlap of neighbouring clips in seconds. Only with cut: fixed."
    )
    cut: Literal["fixed", "scene"] = Field(
        default="fixed",
        description="fixed: clips of equal length. scene: cut at scene changes.",
    )
    min_length_s: float = Field(
        default=1.0,
        ge=0.1,
        description="Minimum clip length in seconds. A shorter remainder is merged into the clip before it.",
    )
    max_length_s: float | None = Field(
        default=None, gt=0, le=3600, description="Maximum clip length in seconds with cut: scene. Default: length_s."
    )
    scene_threshold: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Scene-change score (0 to 1) at which a new scene begins.",
    )
    max_per_media: int = Field(
        default=20_000,
        ge=1,
        description="Maximum number of clips per media item. An item with more is quarantined as too_many_clips.",
    )
    fps: float = Field(default=2.0, gt=0, le=60, description="Frames per second that the model sees.")
    max_pixels: int | None = Field(
        default=None,
        ge=28 * 28,
        le=1 << 24,
        description="Maximum pixels per frame; larger frames are scaled down. Default: 100,352 (128 x 28 x 28).",
    )

    audio_track: AudioTrack = Field(
        default="auto",
        description="Audio track. auto: the first choice by the file's flags, skipping commentary and silence. all: all"
        " tracks mixed. Or a track number counted from 0, or lang:xx.",
    )
    video_track: VideoTrack = Field(
        default="auto",
        description="Video track. auto: the largest picture. Or a track number counted from 0, or lang:xx.",
    )
    decoder: Literal["auto", "cpu", "nvdec"] = Field(
        default="cpu",
        description="What decodes pictures. nvdec: an NVIDIA GPU (H.264 and HEVC; other codecs use the CPU), refused if"
        " the machine has none. auto: the GPU if it decodes two samples exactly as the CPU does, otherwise the CPU."
        " A process that uses the GPU is confined less strictly. Never run on a GPU so far.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.overlap_s > 0.9 * self.length_s:
            # An overlap of nearly everything makes clips without number.
            raise ValueError(f"overlap_s ({self.overlap_s:g}) may be up to 90 % of length_s ({self.length_s:g})")
        if self.overlap_s and self.cut == "scene":
            raise ValueError("overlap_s goes with cut: fixed; scenes do not overlap")
        if self.min_length_s > self.longest_s:
            raise ValueError(f"min_length_s ({self.min_length_s:g}) is above the longest clip ({self.longest_s:g} s)")
        return self

    @property
    def longest_s(self) -> float:
        """Length of the longest regular clip in seconds (a joined rest can make the last one longer)."""
        return self.max_length_s if self.cut == "scene" and self.max_length_s is not None else self.length_s
