"""The fields of a thinker's configuration that tokens and FLOPs are counted by, read from config.json alone.

Promises: what transformers' own classes say, whose import takes seconds and torch: each family declares its fields with
their defaults, a test compares them, and so does loading a model. Knows nothing about families.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Fields(BaseModel):
    """Base of a part of a configuration; what is not declared is left aside."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


class TextFields(Fields):
    """A text decoder's."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int = 32768
    head_dim: int | None = None


class ThinkerFields(Fields):
    """All of it, as far as families share it; a family declares its encoders."""

    text_config: TextFields
    vision_config: Any
    audio_config: Any
    position_id_per_seconds: int = 25
    seconds_per_chunk: int = 2

    @classmethod
    def read(cls, thinker: Mapping[str, Any]) -> ThinkerFields:
        """From the configuration's dictionary. Raises ValueError for a value of another type."""
        try:
            return cls.model_validate({name: value for name, value in thinker.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}, got {first['input']!r}") from error


def differences(ours: Fields, theirs: object, where: str = "") -> Iterator[str]:
    """Fields that transformers' configuration of the same checkpoint reads otherwise, for people; what it does not know
    is ours alone."""
    for name in type(ours).model_fields:
        if not hasattr(theirs, name):
            continue
        mine, other = getattr(ours, name), getattr(theirs, name)
        if isinstance(mine, Fields):
            yield from differences(mine, other, f"{where}{name}.")
        # A list may be a tuple there, and none at all an empty one.
        elif (mine or None) != ((list(other) if isinstance(other, tuple) else other) or None):
            yield f"{where}{name} is {mine!r} and {other!r}"
