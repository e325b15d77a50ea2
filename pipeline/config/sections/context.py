"""`context`: what lies beside a media item, or in its subtitles, and is told to templates."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from pipeline.config.sections.section import Section

SubtitleTrack = Annotated[str, Field(pattern=r"^(auto|none|[0-9]{1,3})$")]

_PLACES = ("{folder}", "{stem}", "{name}")
"""What patterns of sidecars stand for: of `talks/day.mp4` the folder `talks`, the stem `day`, the name `day.mp4`."""


class ContextConfig(Section):
    """Sidecars of the media, and subtitles inside them: what templates are offered as `clip.transcript`,
    `clip.chapter` and `media.meta.NAME`."""

    sidecars: tuple[str, ...] = Field(
        default=(),
        description="Where to look for a video's sidecar files: archive keys with {folder}, {stem} and {name} of the "
        "video, for example subtitles/{stem}.vtt. The first match is used. Default: next to the video, with"
        " the same stem.",
    )
    language: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$",
        description="Language to use if a video has transcripts in several, for example en for talk.en.vtt or a "
        "subtitle track marked eng. Default: the transcript without a language, otherwise the first by name.",
    )
    subtitle_track: SubtitleTrack = Field(
        default="auto",
        description="Subtitle track to use as the transcript of a video without a sidecar transcript. auto: the text "
        "track in context.language, otherwise the default track, otherwise the first; never a forced or commentary "
        "track. none: do not read subtitle tracks. Or a track number counted from 0.",
    )
    max_tokens: int = Field(
        default=2000,
        ge=16,
        le=16_000,
        description="Maximum tokens of a clip's transcript. The rest is cut off and counted.",
    )

    @field_validator("sidecars")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            rest = pattern
            for place in _PLACES:
                rest = rest.replace(place, "")
            if "{" in rest or "}" in rest:
                raise ValueError(f"sidecars: {pattern!r} may contain {', '.join(_PLACES)} and no other braces")
            if "{stem}" not in pattern and "{name}" not in pattern:
                raise ValueError(f"sidecars: {pattern!r} is the same file for all videos; add {{stem}} or {{name}}")
            if pattern.startswith("/") or ".." in pattern.split("/"):
                raise ValueError(
                    f"sidecars: {pattern!r} must be a key of the archive: without a leading / and without .."
                )
        return patterns
