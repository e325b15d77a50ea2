"""JSON answers held to their schema while they are decoded.

Promises: with a tokenizer it understands, every token a constrained answer takes keeps it a beginning of valid JSON of
the schema; a schema that cannot be compiled leaves decoding free, and the reader checks the outcome either way. Knows
nothing about models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    # Imported where they are used: without answers in JSON the method needs torch and transformers alone.
    import llguidance


class Grammars:
    """Compiles schemas for one tokenizer. Making it reads the whole vocabulary (about a second for 150,000 tokens)."""

    def __init__(self, tokenizer_json: str, vocabulary: int, end_ids: Sequence[int]) -> None:
        import llguidance

        self.vocabulary = vocabulary
        self._tokens = llguidance.LLTokenizer(tokenizer_json, n_vocab=vocabulary, eos_token=list(end_ids))

    def constraint(self, schema: dict[str, Any]) -> Constraint | None:
        """The constraint of one answer, or None where the schema uses what the grammar cannot express."""
        import llguidance

        # Fixed separators: with free white space a weak model may write blanks until its tokens are spent.
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                json.dumps(schema), overrides={"whitespace_flexible": False}
            )
        except ValueError:  # numbers that are too large for it
            return None
        matcher = llguidance.LLMatcher(self._tokens, grammar, log_level=0)
        return None if matcher.is_error() else Constraint(matcher, self.vocabulary)


class Constraint:
    """Where one answer is within its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def forbidden(self) -> Tensor:
        """(vocabulary,) bool on the CPU: what may not come next; an end token may once the answer is whole."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        return torch.from_numpy(bits[: self._vocabulary] == 0)

    def accept(self, token: int) -> None:
        """`token` was taken."""
        self._matcher.consume_token(token)
