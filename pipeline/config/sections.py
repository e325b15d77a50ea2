"""The sections of a job file: what may be set, with defaults that work, units in names, and how settings fit together.

Promises: every field says what it means (help, pages and error messages show it), and a section that exists is
consistent in itself. Knows nothing about files, options or what the settings do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from omnidrop import policies
from omnidrop.errors import PolicyError
from pipeline.config.globs import compile_glob
from pipeline.config.locations import EndpointUrl, Location
from workers.media.confinement import Required

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Scalar = str | bool | int | float


_LANGUAGE = r"lang:[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*"
AudioTrack = Annotated[str, Field(pattern=rf"^(auto|all|[0-9]{{1,3}}|{_LANGUAGE})$")]
VideoTrack = Annotated[str, Field(pattern=rf"^(auto|[0-9]{{1,3}}|{_LANGUAGE})$")]


class Section(BaseModel):
    """Base of all parts of a job file: frozen, and a field that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class ArchiveConfig(Section):
    """Where the media are, and which of them count."""

    uri: Location = Field(description="Folder or s3://bucket/prefix that holds the media.")
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Name of the archive, part of its items' labels (media_id); the address itself where not given. "
        "Name an archive that may move, and media ids stay.",
    )
    include: tuple[str, ...] = Field(
        default=("**",),
        min_length=1,
        description="Glob patterns of files to take: * within a name, ** across folders, *.mp4 fits in any folder.",
    )
    exclude: tuple[str, ...] = Field(default=(), description="Glob patterns of files to leave out; wins over include.")
    max_missing: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the media that counted which the archive may lack at once; a run in which more are gone "
        "is refused unless it has --allow-shrink.",
    )
    match_case: bool = Field(
        default=False, description="Whether *.mp4 leaves out A.MP4; otherwise extensions are compared without case."
    )
    recycle_bins: bool = Field(
        default=False,
        description="Also take what lies in recycle bins and systems' own folders ($RECYCLE.BIN, #recycle, lost+found, "
        "@eaDir and the like).",
    )
    sample: int | None = Field(
        default=None,
        ge=1,
        description="Take only a random, reproducible sample of this many media items.",
        json_schema_extra={"option": "--sample"},
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=1 << 63,
        description="Which sample: the same seed picks the same items.",
        json_schema_extra={"option": "--seed"},
    )
    endpoint_url: EndpointUrl | None = Field(
        default=None,
        description="S3 server other than AWS, as in http://host:9000.",
    )
    follow_links: bool = Field(
        default=False,
        description="Follow links that lead out of a local archive. The archive's own folder may be a link either way.",
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


class ModelConfig(Section):
    """Which checkpoint answers, and on what."""

    path: str = Field(
        default="tiny",
        min_length=1,
        description="Checkpoint: a directory, a hub id, or `tiny` (embedded, for trying things out).",
        json_schema_extra={"option": "--model"},
    )
    revision: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$",
        description="Commit, tag or branch of a checkpoint that comes from the hub. A commit stays what it is; without "
        "one every run takes what the hub gives that day, and records which commit that was.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        description="auto, cpu, cuda or cuda:N.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Weights' type; auto is bfloat16 on a GPU and float32 on a CPU."
    )
    system_prompt: str | None = Field(
        default=None, max_length=20_000, description="System text; the family's own where not given."
    )
    actors: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = Field(
        default="auto", description="Model actors; auto is one per GPU of the cluster, or one on a machine without."
    )
    gpus_per_actor: Annotated[float, Field(ge=0, le=16)] | Literal["auto"] | None = Field(
        default=None,
        description="GPUs of one actor; where not given 1 on a GPU cluster, 0 otherwise. auto: as many actors share a "
        "GPU as fit into its memory, by what `omnidrop calibrate` measured.",
    )
    cpus_per_actor: float = Field(default=1.0, gt=0, le=1024, description="CPU cores of one actor.")
    clips_per_pass: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        default=1,
        description="Clips of one shape and question set that an actor answers in one pass, where so many are ready. "
        "auto: the fastest number that `omnidrop calibrate` measured.",
    )

    @model_validator(mode="after")
    def _revision_of_the_hub(self) -> Self:
        if self.revision is not None and (self.path.startswith(("/", ".", "~")) or self.path.count("/") != 1):
            raise ValueError(
                f"revision ({self.revision}) is for checkpoints of the hub, as in Qwen/Qwen2.5-Omni-3B; path is "
                f"{self.path}"
            )
        return self

    @property
    def checkpoint(self) -> str:
        """What is loaded: `path`, of the hub with its revision."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


Mode = Literal["dense", "dense_shared", "per_question", "staged", "set_guided"]


GONE: Mapping[str, Any] = {"near_duplicate": 0.0}
"""Settings of pruning that are gone, with the value that did nothing: outputs of earlier versions keep their recipes by
it."""


class PruningConfig(Section):
    """How a question set is run, and what is dropped on the way."""

    mode: Mode = Field(
        default="set_guided",
        description="set_guided: one pruned pass for the whole set; per_question: one pruned pass a question; staged: "
        "the same answers, early layers shared; dense_shared: unpruned, the clip's cache reused; dense: unpruned.",
    )
    policy: str = Field(
        default="omnidrop",
        description="What is kept; none goes with the two dense modes.",
        json_schema_extra={"choices": list(policies.names())},
    )
    retained_ratio: float | None = Field(
        default=0.3, gt=0, le=1, description="Share of audio and video tokens kept, mean over decoder layers."
    )
    settings: dict[str, Scalar] = Field(
        default_factory=dict,
        description="The policy's own parameters where they differ from its defaults, as in {merge: false}.",
        json_schema_extra={"option": "--setting"},
    )
    guidance: Literal["max", "mean", "quota"] = Field(
        default="max", description="How a set's questions are joined into one importance."
    )
    encoder_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the picture's cells that is encoded, chosen before the encoder: lossy below 1. Where not "
        "given 0.35 with policy omnidrop, 1 (all) with the others; always 1 where nothing is pruned.",
    )
    still_levels: float | None = Field(
        default=None,
        ge=0,
        le=255,
        description="A cell that differs by so few 8-bit levels from the last one encoded at its place is not encoded "
        "again: lossy above 0. Where not given 2 with encoder_share below 1, else 0 (off).",
    )

    @model_validator(mode="before")
    @classmethod
    def _near_duplicate_is_gone(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "near_duplicate" in given:
            raise ValueError(
                "near_duplicate is gone: it compared whole frames, still_levels compares cells. Take it out; "
                "still_levels (2 where encoder_share is below 1, else 0) does what it did"
            )
        return given

    @model_validator(mode="before")
    @classmethod
    def _dense_prunes_nothing(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("mode") in ("dense", "dense_shared"):
            return {"policy": "none", "retained_ratio": None, **given}
        return given

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: str) -> str:
        if policy not in policies.names():
            allowed = {"expected": ", ".join(map(repr, policies.names()))}
            raise PydanticCustomError("literal_error", "Input should be {expected}", allowed)
        return policy

    @model_validator(mode="before")
    @classmethod
    def _settings_of_the_policy(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not isinstance(given.get("settings"), Mapping):
            return given
        policy = given.get("policy", "omnidrop")
        if policy not in policies.names():
            return given
        try:
            settings = dict(policies.effective(policy, given["settings"]))
        except PolicyError as error:
            raise ValueError(f"settings: {error}") from error
        # A policy that is given its rates needs no ratio.
        rates = {"retained_ratio": None} if "p_init" in settings or "p_final" in settings else {}
        return {**rates, **given, "settings": settings}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        dense = self.mode in ("dense", "dense_shared")
        if dense and self.policy != "none":
            raise ValueError(f"mode {self.mode} prunes nothing, so policy must be none, not {self.policy}")
        if not dense and self.policy == "none":
            raise ValueError(f"mode {self.mode} needs a pruning policy; policy none goes with dense and dense_shared")
        if dense and self.retained_ratio not in (None, 1.0):
            raise ValueError(f"mode {self.mode} keeps every token; leave retained_ratio out (as an option: none)")
        if not dense and self.retained_ratio is None and "p_final" not in self.settings:
            raise ValueError(f"policy {self.policy} needs a retained_ratio, as in 0.3")
        own = policies.encoder_share(self.policy, self.settings)
        share = own if self.encoder_share is None or dense else self.encoder_share
        levels = policies.still_levels(share) if self.still_levels is None or dense else self.still_levels
        if own == 1 and (share < 1 or levels):
            raise ValueError(
                f"policy {self.policy}{''.join(f', {n} {v}' for n, v in self.settings.items())} chooses among all "
                "tokens of a clip: leave encoder_share and still_levels out, or give 1 and 0"
            )
        # Resolved here, because they are part of the recipe: another default is another recipe.
        object.__setattr__(self, "encoder_share", share)
        object.__setattr__(self, "still_levels", levels)
        return self


class ClipsConfig(Section):
    """How a media item is cut into clips, and how clips are sampled."""

    length_s: float = Field(default=30.0, ge=0.5, le=3600, description="Length of a clip in seconds.")
    overlap_s: float = Field(default=0.0, ge=0, description="Seconds shared by neighbouring clips of a fixed cut.")
    cut: Literal["fixed", "scene"] = Field(
        default="fixed",
        description="fixed: equal lengths; scene: at scene changes.",
    )
    min_length_s: float = Field(default=1.0, ge=0.1, description="A shorter rest joins the clip before it.")
    max_length_s: float | None = Field(
        default=None, gt=0, le=3600, description="Longest clip of a scene cut in seconds; length_s where not given."
    )
    scene_threshold: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Scene score (0 to 1) from which a frame is a cut.",
    )
    max_per_media: int = Field(
        default=20_000,
        ge=1,
        description="Clips of one media item; one that would be cut into more is quarantined as too_many_clips.",
    )
    fps: float = Field(default=2.0, gt=0, le=60, description="Frames a second that the model sees.")
    max_pixels: int | None = Field(
        default=None,
        ge=28 * 28,
        le=1 << 24,
        description="Frames are scaled down to this many pixels; 100,352 (128 x 28 x 28) where not given.",
    )

    audio_track: AudioTrack = Field(
        default="auto",
        description="Sound track: auto (no commentary, no silence, by the file's own flags), all (mixed), a number "
        "counted from 0, or lang:xx.",
    )
    video_track: VideoTrack = Field(
        default="auto",
        description="Picture track: auto (the largest picture), a number counted from 0, or lang:xx.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.overlap_s > 0.9 * self.length_s:
            # An overlap of nearly everything makes clips without number.
            raise ValueError(f"overlap_s ({self.overlap_s:g}) may be 90 % of length_s ({self.length_s:g}) at most")
        if self.overlap_s and self.cut == "scene":
            raise ValueError("overlap_s goes with cut: fixed; scenes do not overlap")
        if self.min_length_s > self.longest_s:
            raise ValueError(f"min_length_s ({self.min_length_s:g}) is above the longest clip ({self.longest_s:g} s)")
        return self

    @property
    def longest_s(self) -> float:
        """Length of the longest regular clip in seconds (a joined rest can make the last one longer)."""
        return self.max_length_s if self.cut == "scene" and self.max_length_s is not None else self.length_s


_PLACES = ("{folder}", "{stem}", "{name}")
"""What patterns of sidecars stand for: of `talks/day.mp4` the folder `talks`, the stem `day`, the name `day.mp4`."""


class ContextConfig(Section):
    """Sidecars of the media: what templates are offered as `clip.transcript`, `clip.chapter` and `media.meta.NAME`."""

    sidecars: tuple[str, ...] = Field(
        default=(),
        description="Where a video's sidecars lie, the first there is counts: keys of the archive with {folder}, "
        "{stem} and {name} of the video, as in subtitles/{stem}.vtt; where not given: beside it, with its stem.",
    )
    language: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$",
        description="Of transcripts in several languages, as in talk.en.vtt and talk.de.vtt, the one to take; where "
        "not given: the one without a language, else the first by name.",
    )
    max_tokens: int = Field(
        default=2000,
        ge=16,
        le=16_000,
        description="Tokens of a clip's transcript; what is beyond is left out, and counted.",
    )

    @field_validator("sidecars")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            rest = pattern
            for place in _PLACES:
                rest = rest.replace(place, "")
            if "{" in rest or "}" in rest:
                raise ValueError(f"sidecars: {pattern!r} may hold {', '.join(_PLACES)} and no other braces")
            if "{stem}" not in pattern and "{name}" not in pattern:
                raise ValueError(
                    f"sidecars: {pattern!r} names one file for all videos; write {{stem}} or {{name}} into it"
                )
            if pattern.startswith("/") or ".." in pattern.split("/"):
                raise ValueError(f"sidecars: {pattern!r} must be a key of the archive: no / in front, no ..")
        return patterns


class ExecutionConfig(Section):
    """How work is spread, bounded and retried."""

    ray_address: str | None = Field(
        default=None,
        description="Ray cluster: an address, `auto`, or `in-process`; a local one is started where not given.",
    )
    clips_per_unit: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Clips of one work unit, retried and stored as one.",
    )
    bytes_in_flight: int = Field(
        default=1 << 30, ge=1 << 20, description="Decoded bytes that may wait for the model, over the whole cluster."
    )
    decode_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Wall-clock limit of decoding one clip in seconds.",
    )
    probe_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="Wall-clock limit of probing one media item in seconds.",
    )
    max_deaths_per_clip: int = Field(
        default=2, ge=1, le=100, description="A clip that was there when this many workers died is quarantined."
    )
    max_deaths_per_worker: int = Field(
        default=5,
        ge=2,
        le=1000,
        description="A worker slot that died this often stops the run; above max_deaths_per_clip.",
    )
    max_retries: int = Field(default=2, ge=0, le=100, description="Further tries after a failure that may pass.")
    max_asked_again: int = Field(
        default=100,
        ge=0,
        description="Answered clips that a run may ask again because a setting has changed; more need --yes, or a "
        "person's answer at a terminal.",
    )
    cache_dir: str | None = Field(
        default=None,
        description="Folder on each machine for files fetched from a store, by its absolute path; one below the "
        "system's temporary folder where not given.",
    )
    cache_bytes: int = Field(
        default=20 << 30,
        ge=1 << 20,
        description="Bytes of them that a machine keeps; a larger file is read in blocks and never kept whole.",
    )
    fetch_streams: int = Field(
        default=8, ge=1, le=64, description="Requests in flight to the store for each file that is fetched."
    )
    decode_tasks: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Decode tasks at a time; as many as CPU cores are free where not given.",
    )
    actor_idle_s: float = Field(
        default=120.0,
        ge=1,
        description="A model actor with nothing to answer for so many seconds is given back, all but one; one more is "
        "started when clips pile up.",
    )
    confinement: Required = Field(
        default="auto",
        description="Least confinement of the processes that read media: auto takes what the kernel grants and says "
        "where that is less than all, landlock+seccomp refuses to run with less, rlimits accepts limits alone.",
    )
    stop_grace_s: float = Field(
        default=60.0, ge=0, description="Seconds that running units get to finish after SIGTERM or Ctrl-C."
    )

    @field_validator("cache_dir")
    @classmethod
    def _is_absolute(cls, folder: str | None) -> str | None:
        if folder is not None and not folder.startswith("/"):
            raise ValueError(f"{folder!r} is not an absolute path; it means a folder on every machine that decodes")
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


class AuditConfig(Section):
    """What is measured of pruning while a job runs."""

    share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of clips also run dense with prefix reuse, to measure what is saved and changed; 0 is none.",
    )
    min_agreement: float = Field(
        default=0.9, ge=0, le=1, description="Questions whose answers agree with dense less often are listed."
    )


class StorageConfig(Section):
    """How results are stored where the output lies in S3."""

    endpoint_url: EndpointUrl | None = Field(
        default=None,
        description="S3 server other than AWS, as in http://host:9000.",
    )
    sse: Literal["AES256", "aws:kms"] | None = Field(
        default=None,
        description="Server-side encryption of what is written.",
    )
    sse_kms_key_id: str | None = Field(
        default=None,
        description="KMS key for sse: aws:kms; the account's own where not given.",
    )
    max_retries: int = Field(default=5, ge=0, le=50, description="Further tries after a storage failure that may pass.")
    patience_s: float = Field(
        default=300.0,
        ge=0,
        description="Seconds that a run waits, beginning nothing new, for a store, an index or credentials that do not "
        "work, or a full disk.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sse_kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError("sse_kms_key_id goes with sse: aws:kms")
        return self


class CostConfig(Section):
    """What a GPU hour costs, and how many of them one run may spend. No answer depends on it."""

    usd_per_gpu_hour: float | None = Field(
        default=None,
        gt=0,
        description="Price of one GPU for one hour in USD; without GPUs, of one model actor.",
        json_schema_extra={"option": "--usd-per-gpu-hour"},
    )
    budget_usd: float | None = Field(
        default=None,
        gt=0,
        description="A run takes no further clips when those it has would bring its spending to so many USD.",
        json_schema_extra={"option": "--budget-usd"},
    )
    budget_gpu_hours: float | None = Field(
        default=None,
        gt=0,
        description="The same in GPU hours; where both are given, whichever is reached first.",
        json_schema_extra={"option": "--budget-gpu-hours"},
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.budget_usd is not None and self.usd_per_gpu_hour is None:
            raise ValueError(
                f"budget_usd ({self.budget_usd:g}) needs a price: give usd_per_gpu_hour, as in 2.5, or use "
                "budget_gpu_hours"
            )
        return self

    @property
    def gpu_hours_cap(self) -> float | None:
        """GPU hours that one run may spend, by whichever budget is lower; None without one."""
        caps = [] if self.budget_gpu_hours is None else [self.budget_gpu_hours]
        if self.budget_usd is not None and self.usd_per_gpu_hour is not None:
            caps.append(self.budget_usd / self.usd_per_gpu_hour)
        return min(caps, default=None)

    def usd(self, gpu_hours: float | None) -> float | None:
        """What so many GPU hours cost; None without a price or hours."""
        return None if gpu_hours is None or self.usd_per_gpu_hour is None else gpu_hours * self.usd_per_gpu_hour
