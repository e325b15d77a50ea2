"""`pruning`: how a question set is run, and what is dropped on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from omnidrop import policies
from omnidrop.errors import PolicyError
from omnidrop.pruning import DENSE_MODES, Guidance, Mode
from pipeline.config.sections.section import Scalar, Section

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
