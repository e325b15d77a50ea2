"""The embedded checkpoint's tokenizer: byte-level BPE over the toy worlds' words, loadable as `Qwen2Tokenizer`.

Promises: any text tokenises and round-trips (all 256 bytes are in the vocabulary), every word of the tasks is one
token, and the special tokens and chat template are the ones the Qwen2.5-Omni processor needs. Knows no model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from pipeline.toy_world.truth import WORDS

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MEDIA_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
PHRASES = ("low tone", "high tone", "rising sweep", "falling sweep")
"""Names of two words that are one token, so that no answer option is longer than another."""
SPOKEN = (*WORDS, "said", "voice", "spoken", "written")
"""What world v3 says and asks with: tokens of their own behind all others, so that no number of another token moves. In
running text each follows the token of a single space."""

WORD_LIST = """
circle square triangle cross red green blue yellow purple white tone sweep low high rising falling noise clicks silence
none yes no left right top bottom centre center middle background
what which who where when how many is are was were a an the of in on at to and or with without while during after
before right then next first last only same time end start beginning most least any other than that this it there
shape shapes colour colours color colors sound sounds event events picture video clip audio frame second seconds shown
heard seen appears appear appearing played plays visible audible present shows show moves moving still drifting thing
something nothing anything does do did many much number count times together alone followed following previous
you answer question questions options one word letter only give following watch listen look hear see please with about
helpful assistant system user helpful are Qwen human virtual developed by Team Alibaba Group capable perceiving auditory
visual inputs as well generating text speech respond directly choose from given below correct choice list describe order
timeline name names two three four five six zero seven eight nine ten true false unknown not sure immediately directly
if else so for can be has have had will would all each every both either neither between into over under near
"""
"""Every word of the tasks and what people put round them, separated by white space."""


def build_tokenizer() -> Qwen2Tokenizer:
    """The tokenizer, made from the word list alone: the same on every machine."""
    forms: set[str] = set()
    for word in WORD_LIST.split():
        for form in (word, word.capitalize()):
            forms |= {form, " " + form}
    forms |= {" Qwen", "Qwen", "\n", "\n\n", "?\n", ".\n"}
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 16,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    trained.train_from_iterator(sorted(forms), trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=MEDIA_TOKENS,
        model_max_length=32768,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in PHRASES])
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False, single_word=True) for word in SPOKEN])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def same_word_ids(tokenizer: Qwen2Tokenizer) -> list[list[int]]:
    """Token ids grouped by the word they spell, whatever its case or leading space; groups of two and more."""
    groups: dict[str, list[int]] = defaultdict(list)
    for token, number in sorted(tokenizer.get_vocab().items()):
        word = token.replace("Ġ", "").lower()
        if len(word) > 1 or token.strip("Ġ").isalnum():
            groups[word].append(number)
    return [group for _, group in sorted(groups.items()) if len(group) > 1]


def token_ids(tokenizer: Qwen2Tokenizer, words: Iterable[str]) -> list[int]:
    """The single token of each word. Raises ValueError for a word of several tokens."""
    numbers = []
    for word in words:
        found = tokenizer.encode(word, add_special_tokens=False)
        if len(found) != 1:
            raise ValueError(f"{word!r} is {len(found)} tokens, but must be one")
        numbers += found
    return numbers


CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'audio' or 'audio' in part or 'audio_url' in part %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'video' or 'video' in part %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Same layout as the published model's template: a default system text, media placeholders where the parts stand."""
