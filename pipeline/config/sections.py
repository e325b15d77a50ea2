"""The sections of a job file: what may be set, with defaults that work, units in names, and how settings fit together.

Promises: every field says what it means (help, pages and error messages show it), and a section that exists is
consistent in itself. Knows nothing about files, options or what the settings do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from omnidrop import policies
from omnidrop.errors import PolicyError
from omnidrop.pruning import DENSE_MODES, Guidance, Mode
from pipeline.config.globs import compile_glob
from pipeline.config.locations import EndpointUrl, Location
from workers.media.confinement import Required

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Scalar = str | bool | int | float


_LANGUAGE = r"lang:[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*"
AudioTrack = Annotated[str, Field(pattern=rf"^(auto|all|[0-9]{{1,3}}|{_LANGUAGE})$")]
SubtitleTrack = Annotated[str, Field(pattern=r"^(auto|none|[0-9]{1,3})$")]
VideoTrack = Annotated[str, Field(pattern=rf"^(auto|[0-9]{{1,3}}|{_LANGUAGE})$")]


class Section(BaseModel):
    """Base of all parts of a job file: frozen, and a field that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, given: Any) -> Any:
        # Python takes true for 1: `retained_ratio: true` would drop nothing.
        for name, value in given.items() if isinstance(given, Mapping) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and not _may_be_true(field.annotation):
                raise ValueError(f"{name} cannot be {str(value).lower()}")
        return given


def _may_be_true(kind: Any) -> bool:
    return kind in (bool, Any) or any(map(_may_be_true, get_args(kind)))


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


GONE: Mapping[str, Any] = {"near_duplicate": 0.0}
"""Settings of pruning that are gone, with the value that did nothing: outputs of earlier versions keep their recipes by
it."""


class PruningConfig(Section):
    """How a question set is run, and what is dropped on the way."""

    mode: Mode = Field(
        default="set_guided",
        description="set_guided: one pruned pass for the whole question set. per_question: one pruned pass per "
        "question. staged: same answers as per_question, with the early layers shared. dense_shared: no "
        "pruning, questions share the clip's KV cache. dense: no pruning, one pass per question.",
    )
    policy: str = Field(
        default="omnidrop",
        description="Pruning policy: how the tokens to keep are chosen. The two dense modes need none.",
        json_schema_extra={"choices": list(policies.names())},
    )
    retained_ratio: float | None = Field(
        default=0.3,
        gt=0,
        le=1,
        description="Share of audio and video tokens to keep, averaged over the decoder layers.",
    )
    settings: dict[str, Scalar] = Field(
        default_factory=dict,
        description="Parameters of the policy that differ from its defaults, for example {merge: false}.",
        json_schema_extra={"option": "--setting"},
    )
    guidance: Guidance = Field(
        default="max",
        description="How the importance scores of a set's questions are combined into one score per token.",
    )
    encoder_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the image cells to encode, chosen by policy omnidrop before the vision encoder; 1: all. "
        "Lossy below 1: 0.35 saves a third to a half of a pruned clip's FLOPs and costs 3 to 4 points of accuracy if a "
        "lot happens at once. Always 1 in the dense modes.",
    )
    still_levels: float | None = Field(
        default=None,
        ge=0,
        le=255,
        description="Skip an image cell if it differs from the last encoded cell at its position by no more than this "
        "many 8-bit levels. Lossy above 0. Default: 2 if encoder_share is below 1, otherwise 0 (off).",
    )

    read_left_out: bool | None = Field(
        default=None,
        description="Let questions attend to tokens that do not enter the decoder. Costs a few per cent more FLOPs "
        "and a KV cache nearly as large as unpruned, and loses less. Default: true with policy omnidrop if "
        "every image cell is encoded, otherwise false.",
    )

    @model_validator(mode="before")
    @classmethod
    def _near_duplicate_is_gone(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "near_duplicate" in given:
            raise ValueError(
                "near_duplicate was removed; use still_levels, which compares image cells, not frames. Its default "
                "is 2 if encoder_share is below 1, otherwise 0"
            )
        return given

    @model_validator(mode="before")
    @classmethod
    def _dense_prunes_nothing(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("mode") in DENSE_MODES:
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
        rates = {"retained_ratio": None} if policies.gives_rates(settings) else {}
        # A field of its own, so that an output remembers it apart from what else a policy is given.
        settings.pop("read_left_out", None)
        read, said = given["settings"].get("read_left_out"), given.get("read_left_out")
        if read is not None and said is not None and said != read:
            raise ValueError(f"read_left_out is {said}, but {read} among settings: remove one of them")
        reading = {} if read is None else {"read_left_out": read}
        return {**rates, **given, **reading, "settings": settings}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        dense = self.mode in DENSE_MODES
        if dense and self.policy != "none":
            raise ValueError(f"mode {self.mode} prunes nothing, so policy must be none, not {self.policy}")
        if not dense and self.policy == "none":
            raise ValueError(f"mode {self.mode} needs a pruning policy; policy none goes with dense and dense_shared")
        if dense and self.retained_ratio not in (None, 1.0):
            raise ValueError(f"mode {self.mode} keeps every token; remove retained_ratio (as an option: none)")
        if not dense and self.retained_ratio is None and not policies.gives_rates(self.settings):
            raise ValueError(f"policy {self.policy} needs a retained_ratio, for example 0.3")
        share = 1.0 if dense else self.encoder_share
        levels = policies.still_levels(share) if self.still_levels is None or dense else self.still_levels
        if (share < 1 or levels) and not policies.does_with_some_cells(self.policy, self.settings):
            raise ValueError(
                f"policy {self.policy}{''.join(f', {n} {v}' for n, v in self.settings.items())} chooses among all "
                "tokens of a clip: remove encoder_share and still_levels, or set them to 1 and 0"
            )
        try:
            reads = policies.reads_left_out(self.policy, None if dense else self.read_left_out, share, levels)
        except PolicyError as error:
            raise ValueError(str(error)) from error
        # Resolved here, because they are part of the recipe: another default is another recipe.
        object.__setattr__(self, "encoder_share", share)
        object.__setattr__(self, "still_levels", levels)
        object.__setattr__(self, "read_left_out", reads)
        return self


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


class AuditConfig(Section):
    """What is measured of pruning while a job runs."""

    share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of clips that are also run with dense_shared, to measure what pruning saves and changes. 0 "
        "turns the audit off.",
    )
    min_agreement: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="List the questions whose answers agree with the dense answers less often than this.",
    )


class StorageConfig(Section):
    """How results are stored where the output lies in S3."""

    endpoint_url: EndpointUrl | None = Field(
        default=None,
        description="URL of an S3 server other than AWS, for example http://host:9000.",
    )
    sse: Literal["AES256", "aws:kms"] | None = Field(
        default=None,
        description="Server-side encryption of the objects that are written.",
    )
    sse_kms_key_id: str | None = Field(
        default=None,
        description="KMS key for sse: aws:kms. Default: the account's own key.",
    )
    max_retries: int = Field(
        default=5, ge=0, le=50, description="Maximum retries of a storage request after a transient failure."
    )
    patience_s: float = Field(
        default=300.0,
        ge=0,
        description="Seconds that a run waits during an outage (store, index or credentials not working, disk full) "
        "before it stops. It starts no new work meanwhile.",
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
        description="Price of one GPU hour in USD. Without GPUs, the price of one model-actor hour.",
        json_schema_extra={"option": "--usd-per-gpu-hour"},
    )
    budget_usd: float | None = Field(
        default=None,
        gt=0,
        description="Spending limit of one run in USD. The run takes no more clips once those in progress would use it "
        "up.",
        json_schema_extra={"option": "--budget-usd"},
    )
    budget_gpu_hours: float | None = Field(
        default=None,
        gt=0,
        description="Spending limit of one run in GPU hours. If both limits are set, the one reached first counts.",
        json_schema_extra={"option": "--budget-gpu-hours"},
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.budget_usd is not None and self.usd_per_gpu_hour is None:
            raise ValueError(
                f"budget_usd ({self.budget_usd:g}) needs a price: set usd_per_gpu_hour, for example 2.5, or use "
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
