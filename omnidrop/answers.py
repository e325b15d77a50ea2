"""What one pass over a clip gives back: typed answers, the cost as run, both counterfactuals, and the trace's counts.

Promises: frozen values without tensors, so that they cross process borders and become rows unchanged. Knows nothing
about how they were computed or where they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Each probing child imports this module, and numpy would be a third of its start.
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Answer:
    """One question's answer.

    `value` is typed by the question (str for choice and text, bool, float, or a dict/list for json) and None when the
    model's text could not be read as that type; then `error_class` says why and `text` holds what the model wrote.
    `probability` and `margin` (best minus second best) are over the allowed values, None for text and json.
    """

    question_id: str
    value: object
    text: str
    probability: float | None = None
    margin: float | None = None
    error_class: str | None = None
    probabilities: tuple[float, ...] | None = None
    """Of every allowed value, in their order; None for text and json."""


@dataclass(frozen=True)
class PassCost:
    """What one way of running a question set costs. FLOPs by the convention stated in `omnidrop/cost.py`."""

    tokens: int
    """Token rows that entered decoder layer 0, summed over all passes."""
    prefill_flops: int
    """Decoder layers plus LM head at the positions where it is computed."""
    selection_flops: int
    encoder_flops: int
    decode_flops: int
    kv_bytes: int
    """KV cache bytes held when the last prefill ends."""

    @property
    def flops(self) -> int:
        """All of it."""
        return self.prefill_flops + self.selection_flops + self.encoder_flops + self.decode_flops


@dataclass(frozen=True)
class Cost:
    """One clip's whole question set: as run, and what the two unpruned ways would have cost."""

    as_run: PassCost
    dense: PassCost
    """Counterfactual: every question prefilled alone."""
    dense_shared: PassCost
    """Counterfactual: the clip prefilled once, its KV cache reused for every question. The honest baseline."""
    seconds: float
    """Measured wall seconds in the model: inputs, encoders, prefill, decoding; where clips were answered together, an
    equal share of theirs."""
    peak_bytes: int | None
    """Measured peak of device memory (CUDA) during the clip, or during all that were answered together; None where the
    device does not tell."""


@dataclass(frozen=True)
class LayerCount:
    """How many audio and video tokens entered one decoder layer."""

    layer: int
    audio: int
    video: int


@dataclass(frozen=True)
class TraceCounts:
    """Token counts by layer. `audio_in`, `video_in` count the tokens before any pruning."""

    audio_in: int
    video_in: int
    layers: tuple[LayerCount, ...]

    def retained_ratio(self, modality: str | None = None) -> float | None:
        """Mean over decoder layers of (tokens entering the layer) / (tokens before any pruning).

        `modality` is "audio", "video" or None for both together; None is returned where there were no such tokens.
        """
        audio, video = modality in (None, "audio"), modality in (None, "video")
        total = self.audio_in * audio + self.video_in * video
        if not total or not self.layers:
            return None
        return sum(c.audio * audio + c.video * video for c in self.layers) / (total * len(self.layers))


@dataclass(frozen=True)
class ClipAnswers:
    """Everything `OmniModel.answer` returns: one `Answer` per question in the order asked, cost and trace."""

    answers: tuple[Answer, ...]
    cost: Cost
    trace: TraceCounts
    notes: tuple[str, ...] = ()
    """Plain sentences about anything unusual: a shrunken token budget, reused features, a lossy setting."""
    positions: Trace | None = None
    """Which tokens survived, and what each question looked at: only where it was asked for."""


@dataclass(frozen=True, eq=False)
class Trace:
    """A clip's n audio and video tokens, and which of them entered each layer."""

    modality: npt.NDArray[np.int8]
    """(n,) AUDIO or VIDEO, see `omnidrop.models.base`."""
    chunk: npt.NDArray[np.int64]
    """(n,)"""
    grid: npt.NDArray[np.int32]
    """(n, 3), see `Prefix.grid`."""
    question_ids: tuple[tuple[str, ...], ...]
    """The questions of each pass: one pass for a whole set, or one pass per question."""
    kept: tuple[tuple[npt.NDArray[np.int64], ...], ...]
    """kept[pass][layer]: ascending indices into the n tokens. What is dropped stays dropped."""
    attention: tuple[tuple[npt.NDArray[np.float32], ...], ...]
    """attention[pass][layer]: (questions of the pass, kept tokens), what `importance.attention_received` gives for each
    question's own words, whatever the policy looked at."""

    encoded: npt.NDArray[np.bool_] | None = None
    """(n,) whether each token was encoded at all, itself or as an earlier one of its place; None where all were."""
    is_still: npt.NDArray[np.bool_] | None = None
    """(n,) whether each token has an earlier one's features; None where none has."""

    def layers_entered(self, number: int = 0) -> npt.NDArray[np.int64]:
        """(n,) how many layers each token entered in pass `number`."""
        import numpy as np

        entered = np.zeros(self.modality.shape[0], dtype=np.int64)
        for kept in self.kept[number]:
            entered[kept] += 1
        return entered
