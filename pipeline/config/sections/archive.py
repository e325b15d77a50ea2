"""`archive`: where the media are, and which of them count."""

from __future__ import annotations

from pydantic import Field, field_validator

from pipeline.config.globs import compile_glob
from pipeline.config.locations import EndpointUrl, Location
from pipeline.config.sections.section import Section


class ArchiveConfig(Section):
    """Where the media are, and which of them count."""

    uri: Location = Field(description="Folder or s3://bucket/prefix that holds the media.")
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Name of the archive. media_id is derived from it; without a name, from uri. Set a name if the "
        "archive may move, so that media ids stay the same.",
    )
    include: tuple[str, ...] = Field(
        default=("**",),
        min_length=1,
        description="Glob patterns of the files to process. * matches within a name, ** matches across folders, and "
        "*.mp4 matches in any folder.",
    )
    exclude: tuple[str, ...] = Field(default=(), description="Glob patterns of the files to skip. Wins over include.")
    max_missing: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest share of the known media that may be missing from the archive. If more are missing, the "
        "run stops unless --allow-shrink is given.",
    )
    match_case: bool = Field(
        default=False, description="Compare file extensions case-sensitively. If false, *.mp4 also matches A.MP4."
    )
    recycle_bins: bool = Field(
        default=False,
        description="Also process files in recycle bins and system folders ($RECYCLE.BIN, #recycle, lost+found, @eaDir "
        "and similar).",
    )
    sample: int | None = Field(
        default=None,
        ge=1,
        description="Process only a random sample of this many media items. The same seed gives the same sample.",
        json_schema_extra={"option": "--sample"},
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=1 << 63,
        description="Seed of the sample.",
        json_schema_extra={"option": "--seed"},
    )
    endpoint_url: EndpointUrl | None = Field(
        default=None,
        description="URL of an S3 server other than AWS, for example http://host:9000.",
    )
    follow_links: bool = Field(
        default=False,
        description="Follow symbolic links that point outside a local archive. The archive folder itself may always be "
        "a link.",
    )
    anonymous: bool = Field(default=False, description="Read a public S3 bucket without credentials.")

    @field_validator("include", "exclude")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            compile_glob(pattern)
        return patterns

    @property
    def identity(self) -> str:
        """What stands for this archive in media ids: its name, or else its normalised address."""
        return self.name or self.uri
