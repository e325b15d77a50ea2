"""The words around a clip, its questions and their answers as tokens, and how many tokens its picture and sound are.

Promises: the prompts of the stock `Qwen2_5OmniProcessor` and `Qwen3OmniMoeProcessor`; the tokenizer is loaded with the
first words, and torch not at all. Knows nothing about pixels, weights or pruning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omnidrop.errors import CheckpointError, ClipTooLong, SoundTooShort
from omnidrop.models import chat_template
from omnidrop.models.base import ClipPrompt, Outline
from omnidrop.models.checkpoints import loading, read_chat_template, read_json
from omnidrop.models.geometry import SAMPLE_RATE, SHORTEST_AUDIO_HOPS, Geometry

QUESTION_MARK = "\u2063question\u2063"
"""Stands for the question while the chat template is rendered; invisible separators keep it from meeting real text."""
MOST_AROUND = 4096
"""Tokens: no chat template puts more around a clip, so none is rendered for a clip that leaves as many positions."""
MOST_TOKENS_A_BYTE = 4
"""Of a text: one at most where tokens are bytes, three where normal forms make more of a letter."""
MOST_OF_A_TRANSFORM = {"feature_size": 1024, "n_fft": 1 << 16, "hop_length": 1 << 16}
"""Mel bins, samples of a window, samples from one to the next; the published checkpoints have 128, 400 and 160."""


class Prompts:
    """Tokenizer, chat template and geometry of one checkpoint directory. Raises CheckpointError."""

    def __init__(self, directory: Path, geometry: Geometry) -> None:
        self.geometry = geometry
        self._directory = directory
        self._template = read_chat_template(directory)
        _check_transform(directory)

    @cached_property
    def tokenizer(self) -> Any:
        """As transformers makes it. Raises CheckpointError."""
        # Here, because the import takes most of a second.
        from transformers import Qwen2Tokenizer

        with loading(self._directory):
            try:
                found = Qwen2Tokenizer.from_pretrained(str(self._directory))
                found("a")  # used once where what is wrong is the checkpoint's, as a setting that is none
                return found
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"the tokenizer of {self._directory} cannot be loaded: {error}") from error

    def outline(self, shape: tuple[int, int, int], samples: int, prompt: ClipPrompt) -> Outline:
        """See `omnidrop.models.base.Processor.outline`."""
        around = sum(map(len, self.prompt(prompt.system_prompt, prompt.instruction, has_video=shape[0] > 0)))
        clip = self._outline(shape, samples, prompt.fps, lambda: around)
        marks = 2 * (clip.video > 0) + 2 * (clip.audio > 0)
        return replace(clip, text=around + marks)

    def media(self, shape: tuple[int, int, int], samples: int, *, fps: float) -> Outline:
        """See `omnidrop.models.base.Processor.media`."""
        words = lambda: sum(map(len, self.prompt(None, "", has_video=shape[0] > 0)))  # noqa: E731
        return self._outline(shape, samples, fps, words, MOST_AROUND)

    def _outline(
        self, shape: tuple[int, int, int], samples: int, fps: float, words: Callable[[], int], most_words: int = 0
    ) -> Outline:
        frames, height, width = shape
        grid = self.geometry.grid(frames, height, width) if frames else None
        audio = self.geometry.audio_tokens(samples)
        if grid is None and not audio:
            raise self.too_short(samples)
        self.check_reach(grid, audio, fps, words, most_words)
        encoders = self.geometry.vision_flops(*grid) if grid else 0
        if (mel := self.geometry.mel_frames(samples)) > 0:
            encoders += self.geometry.audio_flops(mel)
        return Outline(0, audio, (grid[1] * grid[2],) * grid[0] if grid else (), encoders)

    def too_short(self, samples: int) -> SoundTooShort:
        """That a clip of so little sound and no picture cannot be used."""
        least_ms = 1000 * SHORTEST_AUDIO_HOPS * self.geometry.hop / SAMPLE_RATE
        given = f"{1000 * samples / SAMPLE_RATE:.1f} ms of sound" if samples else "no sound"
        return SoundTooShort(f"no frames and {given}; this model needs frames or at least {least_ms:g} ms of sound")

    def check_reach(
        self,
        grid: tuple[int, int, int] | None,
        audio_tokens: int,
        fps: float,
        words: Callable[[], int],
        most_words: int = 0,
    ) -> None:
        """Rotary positions beyond the model's own are numbers too: it would answer, and worse. Raises ClipTooLong.

        `words` counts the text around the clip: asked for unless as many as `most_words` fit.
        """
        most = self.geometry.config.text_config.max_position_embeddings
        a_second = self.geometry.positions_per_second
        seconds = max(grid[0] * self.geometry.temporal_patch / fps if grid else 0.0, audio_tokens / a_second)
        if most_words and seconds * a_second + most_words <= most:
            return
        if seconds * a_second + (count := words()) > most:
            raise ClipTooLong(
                f"a clip of {seconds:,.0f} s with {count} tokens of text takes {a_second} positions a second, "
                f"and the model was made to read {most:,}: {(most - count) / a_second:,.0f} s; use shorter clips, "
                "or frames less far apart"
            )

    def prompt(self, system_prompt: str | None, instruction: str, *, has_video: bool) -> tuple[list[int], list[int]]:
        """Token ids before the clip's first mark, and after its last one up to the first question."""
        before, between, _ = self._rendered(system_prompt, has_video)
        text = self.plain(instruction).strip()
        # A newline ends every pre-token of Qwen's pattern that precedes a word, so the prompt may be cut behind it.
        return self.ids(before), self.ids(between + (text + "\n" if text else ""))

    def text_ids(self, text: str, system_prompt: str | None, instruction: str) -> list[int]:
        """Token ids of a turn that holds a text and no media, up to the first question: the text, then the instruction.

        Raises CheckpointError where the chat template ends such a turn otherwise than one with a clip.
        """
        rendered = self._turn(system_prompt, [{"type": "text", "text": QUESTION_MARK}])
        before, found, after = rendered.partition(QUESTION_MARK)
        if not found or after != self._rendered(None, True)[2]:
            raise CheckpointError(f"the chat template does not lay out a user turn of text alone: it gave {rendered!r}")
        parts = (self.plain(part).strip() for part in (text, instruction))
        return self.ids(before + "".join(part + "\n" for part in parts if part))

    def question_ids(self, text: str) -> list[int]:
        """Token ids of a question up to and including the start of the assistant's turn."""
        _, _, after = self._rendered(None, True)
        return self.ids(self.plain(text).strip() + after)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer as it would follow the assistant's start, without an end token."""
        return self.ids(self.plain(text).strip())

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, special tokens recognised."""
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
        if len(ids) > MOST_TOKENS_A_BYTE * len(text.encode("utf-8", "replace")):
            raise CheckpointError(
                f"the tokenizer of {self._directory} makes {len(ids)} tokens of {len(text)} characters: it repeats or "
                "adds text (normalizer, post_processor); copy the published one again"
            )
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """Decode token ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def plain(self, text: str) -> str:
        """`text` with special tokens and other marks broken up: titles and tags of untrusted media reach questions
        through templates, and `<|im_end|>` in one of them must stay a word."""
        return self._special_pattern.sub(lambda found: found[0][0] + " " + found[0][1:], text)

    def mark(self, name: str) -> str:
        """The token that the tokenizer names `name`: a medium's, or where one begins or ends."""
        token = getattr(self.tokenizer, name, None)
        if token is None:
            raise CheckpointError(
                f"the tokenizer has no {name}: it must name the media tokens (`extra_special_tokens` in "
                "tokenizer_config.json), as the published Omni checkpoints do"
            )
        return str(token)

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer: the tokenizer's end token and ChatML's two."""
        ids = {self.tokenizer.eos_token_id}
        known = self.tokenizer.get_vocab()
        ids |= {known[token] for token in ("<|im_end|>", "<|endoftext|>") if token in known}
        return tuple(sorted(i for i in ids if i is not None))

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        # Not only those called special: `<think>` and `<tool_call>` are marks, too. An added word is a word.
        added = {
            token.content
            for token in self.tokenizer.added_tokens_decoder.values()
            if token.special or (token.content.startswith("<") and token.content.endswith(">"))
        }
        special = sorted(added | set(self.tokenizer.all_special_tokens), key=len, reverse=True)
        return re.compile("|".join(re.escape(token) for token in special) or r"(?!)")

    def _rendered(self, system_prompt: str | None, has_video: bool) -> tuple[str, str, str]:
        """The chat template's text before the clip's first mark, between its last mark and the question, and after."""
        kind = "video" if has_video else "audio"
        rendered = self._turn(system_prompt, [{"type": kind, kind: kind}, {"type": "text", "text": QUESTION_MARK}])
        first, last = ("vision_bos_token", "vision_eos_token") if has_video else ("audio_bos_token", "audio_eos_token")
        before, _, rest = rendered.partition(self.mark(first))
        _, found_clip, rest = rest.partition(self.mark(last))
        between, found_question, after = rest.partition(QUESTION_MARK)
        if not (found_clip and found_question):
            raise CheckpointError(
                f"the chat template does not lay out a user turn of a {kind} and a text: it rendered {rendered!r}"
            )
        return before, between, after

    def _turn(self, system_prompt: str | None, content: list[dict[str, str]]) -> str:
        """A user's turn of this content as the chat template renders it, up to the assistant's start."""
        turns: list[dict[str, Any]] = []
        if system_prompt is not None:
            turns.append({"role": "system", "content": [{"type": "text", "text": self.plain(system_prompt)}]})
        turns.append({"role": "user", "content": content})
        named = {
            name: str(token) for name, token in self.tokenizer.special_tokens_map.items() if isinstance(token, str)
        }
        return chat_template.render(
            self._template, messages=turns, tools=None, documents=None, add_generation_prompt=True, **named
        )


def _check_transform(directory: Path) -> None:
    """The feature extractor makes a table of bins by frequencies when it is made: 200 bytes can ask for all memory."""
    settings = read_json(directory / "preprocessor_config.json")
    if (rate := settings.get("sampling_rate", SAMPLE_RATE)) != SAMPLE_RATE:
        raise CheckpointError(f"{directory} wants sound at {rate} Hz; supported is {SAMPLE_RATE} Hz")
    for name, most in MOST_OF_A_TRANSFORM.items():
        value = settings.get(name, 1)
        if not isinstance(value, int) or not 0 < value <= most:
            raise CheckpointError(
                f"{directory / 'preprocessor_config.json'} says {name}: {value!r}; whole numbers from 1 to {most:,} "
                "are taken"
            )
