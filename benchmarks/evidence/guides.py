"""Other guides for the same layer-wise pruning, for ablations: the paper's own, and the one the paper tried and left.

Promises: everything but whose attention counts is `omnidrop`'s. Knows nothing about clips or tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

from omnidrop import policies
from omnidrop.policies.base import Guide
from omnidrop.policies.omnidrop import OmniDrop


@dataclass(frozen=True)
class WordsGuided(OmniDrop):
    """arXiv 2605.14458, importance: the question's text tokens, without the one at which the answer begins."""

    name: ClassVar[str] = "omnidrop_words"
    guide: ClassVar[Guide] = "words"


@dataclass(frozen=True)
class AudioGuided(OmniDrop):
    """arXiv 2605.14458, ablation of the guidance: 43.25 against 46.19 on WorldSense at 20 % on the 7B model."""

    name: ClassVar[str] = "omnidrop_audio"
    guide: ClassVar[Guide] = "audio"


@contextmanager
def registered() -> Iterator[None]:
    """Make them available by name while the block runs."""
    with ExitStack() as stack:
        for policy in (WordsGuided, AudioGuided):
            stack.enter_context(policies.registered(policy))
        yield
