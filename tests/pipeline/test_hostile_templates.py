"""Templates and checkpoints from strangers: bounded, and wrong in a sentence instead of a traceback."""

from __future__ import annotations

import contextlib
import json
import shutil
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop.errors import CheckpointError, ModelError, QuestionError
from omnidrop.estimate import Estimator
from omnidrop.model import OmniModel, Request
from omnidrop.models import chat_template, registry
from omnidrop.models.checkpoints import EMBEDDED, configuration_of
from omnidrop.models.prompts import QUESTION_MARK
from omnidrop.models.quantised import stored
from omnidrop.models.registry import read_geometry
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Question, Text
from pipeline.questions.templates import MAX_RENDERED_CHARS, render

QUESTIONS = (Question("a", "Is it?", Boolean()),)
MEDIA = {"name": "a.mp4", "duration_s": 12.5, "tags": {"title": "A title"}}


@pytest.mark.parametrize(
    "source",
    [
        "{{ 5 | round(-300000000) }}",
        "{{ 5.5 | round(300000000) }}",
        "{{ 5 | round(precision=-300000000) }}",
        "{% if 1 %}" * 60 + "{% endif %}" * 60,
        "{{ " + "9" * 5000 + " }}",
        "{{ " + "*".join(["999999999"] * 500) + " }}",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ 1e400 }}",
        "{% if 1e300 * 1e300 > 1 %}x{% endif %}",
        "{{ 'x' * 1000000000 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '" + "x" * 30_000 + "' }}",
        "{{ media.name" + "| replace('a', 'aaaaaaaaaa')" * 30 + " }}",
        "{{ 1 // 0 }}",
        "{{ media.duration_s + 'a' }}",
        "{{ [1] < ['a'] }}",
        "{{ 1[0] }}",
        "{{ 'a'['b'] }}{{ 1.5[2:] }}",
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_template_ends_soon_and_says_what_is_wrong(source):
    started = time.process_time()
    with contextlib.suppress(QuestionError):
        assert len(render(source, MEDIA, {})) <= MAX_RENDERED_CHARS
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ media.duration_s | round(1) }} s", "12.5 s"),
        ("{{ (media.duration_s / 60) | round }} min", "0.0 min"),
        ("{{ media.duration_s // 2 + 1 }}", "7.0"),
        ("{{ 'a' + media.name }}", "aa.mp4"),
        ("{{ -3 }}{{ 7 % 4 }}", "-33"),
    ],
)
def test_honest_arithmetic_is_as_it_was(source, text):
    assert render(source, MEDIA, {}) == text


EXPRESSIONS = st.recursive(
    st.sampled_from(["1", "0", "2.5", "1e300", "'a'", "media.name", "media.tags.title", "vars.x", "true", "none"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "~", "<", "==", "and"]), inner).map(
            lambda parts: f"({' '.join(parts)})"
        ),
        st.tuples(
            inner, st.sampled_from(["round(-9)", "int", "float", "upper", "truncate(3)", "default(1)", "title"])
        ).map(lambda parts: f"({parts[0]} | {parts[1]})"),
    ),
    max_leaves=20,
)


@settings(max_examples=150)
@given(EXPRESSIONS)
def test_whatever_is_written_renders_or_is_refused(expression):
    with contextlib.suppress(QuestionError):
        assert len(render(f"{{{{ {expression} }}}}", MEDIA, {"x": 3})) <= MAX_RENDERED_CHARS


# Checkpoints


def test_a_chat_template_renders_as_in_transformers():
    processor = registry.load("tiny", device="cpu", dtype="float32").processor
    special = {k: v for k, v in processor.tokenizer.special_tokens_map.items() if isinstance(v, str)}
    for kind in ("video", "audio"):
        turns = [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": kind, kind: kind}, {"type": "text", "text": QUESTION_MARK}]},
        ]
        stock = processor.tokenizer.apply_chat_template(
            turns, chat_template=processor._template, tokenize=False, add_generation_prompt=True
        )
        ours = chat_template.render(
            processor._template, messages=turns, tools=None, documents=None, add_generation_prompt=True, **special
        )
        assert ours == stock


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "does not end"),
        (
            "{% set n = namespace(x='x') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
            "checkpoint's chat template",
        ),
        ("{{ ''.__class__.__mro__ }}", "cannot be rendered"),
        ("{{ raise_exception('no') }}", "cannot be rendered: TemplateError: no"),
        ("{% if %}", "cannot be rendered"),
    ],
)
def test_a_chat_template_that_means_harm_is_named(template, said):
    with pytest.raises(CheckpointError, match=said):
        chat_template.render(template, messages=[])


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copytree(EMBEDDED["tiny"], tmp_path / "broken")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.json", lambda text: "[" * 100_000),
        ("config.json", lambda text: '{"model_type": ' + "9" * 5000 + "}"),
        ("config.json", lambda text: _with(text, "thinker_config", "text_config", num_hidden_layers="many")),
        ("config.json", lambda text: _with(text, "thinker_config", "text_config", num_attention_heads=0)),
        ("config.json", lambda text: _with(text, "thinker_config", vision_config=[1])),
        ("config.json", lambda text: _with(text, "thinker_config", audio_config={"d_model": -1})),
        ("preprocessor_config.json", lambda text: _with(text, hop_length="x")),
        ("preprocessor_config.json", lambda text: _with(text, feature_size=None)),
        ("preprocessor_config.json", lambda text: "null"),
        ("tokenizer.json", lambda text: "{}"),
        ("tokenizer.json", lambda text: text[: len(text) // 2]),
        ("tokenizer_config.json", lambda text: _with(text, extra_special_tokens=[1, 2])),
        ("tokenizer_config.json", lambda text: "[]"),
        ("tokenizer_config.json", lambda text: _with(text, vision_bos_token=None)),
        ("tokenizer_config.json", lambda text: _with(text, model_max_length="x")),
        ("model.safetensors", lambda text: "not safetensors"),
    ],
)
def test_a_broken_checkpoint_is_a_users_error(checkpoint, name, damage):
    path = checkpoint / name
    text = path.read_text() if path.suffix == ".json" else ""
    path.write_text(damage(text))
    with pytest.raises(CheckpointError):
        registry.load(str(checkpoint), device="cpu", dtype="float32")
    with contextlib.suppress(CheckpointError):
        read_geometry(str(checkpoint))
    with contextlib.suppress(CheckpointError):
        Estimator(str(checkpoint)).clip(QUESTIONS, Pruning(), frames=4, height=64, width=96, samples=32_000, fps=2.0)


@pytest.mark.parametrize(
    ("name", "path", "values"),
    [
        ("config.json", ("thinker_config",), {"transformers_weights": "other/model.safetensors"}),
        ("config.json", (), {"transformers_weights": "x.safetensors.index.json"}),
        ("tokenizer_config.json", (), {"fast_tokenizer_files": ["../elsewhere/tokenizer.4.0.0.json"]}),
        ("adapter_config.json", (), {"base_model_name_or_path": "a/stranger"}),
    ],
)
def test_what_the_hash_does_not_cover_is_not_loaded(checkpoint, name, path, values):
    place = checkpoint / name
    place.write_text(_with(place.read_text() if place.exists() else "{}", *path, **values))
    with pytest.raises(CheckpointError, match=r"names other files to be loaded|holds an adapter"):
        registry.load(str(checkpoint), device="cpu", dtype="float32")
    with pytest.raises(CheckpointError, match=r"names other files to be loaded|holds an adapter"):
        Estimator(str(checkpoint))


@pytest.mark.parametrize("answer", [Boolean(), Text(max_tokens=4)])
def test_a_model_that_computes_no_numbers_answers_nothing(checkpoint, answer):
    """As damaged weights do, or a dtype that overflows: the first option, or the first token, would be the answer."""
    place = checkpoint / "config.json"
    place.write_text(_with(place.read_text(), "thinker_config", "text_config", rms_norm_eps=float("nan")))
    model = OmniModel.load(str(checkpoint), device="cpu", dtype="float32")
    request = Request((Question("a", "Is it?", answer),), 2.0)
    with pytest.raises(ModelError, match="logits are no numbers"):
        model.answer(np.zeros((2, 56, 56, 3), np.uint8), None, request)


def test_a_clip_of_no_numbers_is_named_before_tokens_are_chosen(checkpoint):
    """The choice would have no end."""
    place = checkpoint / "preprocessor_config.json"
    place.write_text(_with(place.read_text(), image_std=[0, 0, 0]))
    model = OmniModel.load(str(checkpoint), device="cpu", dtype="float32")
    with pytest.raises(ModelError, match="features of the clip are no numbers"):
        model.answer(np.zeros((2, 112, 112, 3), np.uint8), None, Request(QUESTIONS, 2.0))


def test_a_tokenizer_that_repeats_its_text_is_refused(checkpoint):
    place = checkpoint / "tokenizer.json"
    again = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
    again["single"] = [{"Sequence": {"id": "A", "type_id": 0}}] * 100
    place.write_text(_with(place.read_text(), post_processor=again))
    with pytest.raises(CheckpointError, match="it repeats or adds text"):
        registry.processor_of(checkpoint).ids("Is it?")


def test_weights_of_another_shape_are_named(checkpoint):
    place = checkpoint / "config.json"
    place.write_text(_with(place.read_text(), "thinker_config", "text_config", intermediate_size=100))
    with pytest.raises(CheckpointError, match=r"do not fit config.json: .*mlp.* with \(.*\), not \(.*100.*\)"):
        registry.load(str(checkpoint), device="cpu", dtype="float32")


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja", "tokenizer.json", "added_tokens.json"])
def test_a_text_that_would_fill_the_memory_is_not_read(checkpoint, name):
    with (checkpoint / name).open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match=f"{name} has 1048576 MB; at most 128 MB"):
        configuration_of(str(checkpoint))


@pytest.mark.parametrize("metadata", ['{"total_size": Infinity}', "[1]"])
def test_a_size_of_weights_that_is_none_is_a_users_error(checkpoint, metadata):
    index = f'{{"metadata": {metadata}, "weight_map": {{"a": "model.safetensors"}}}}'
    (checkpoint / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="one of its files is damaged"):
        stored(checkpoint)


@pytest.mark.parametrize("name", ["feature_size", "n_fft", "hop_length"])
def test_a_spectrogram_that_would_fill_the_memory_is_refused(checkpoint, name):
    place = checkpoint / "preprocessor_config.json"
    place.write_text(_with(place.read_text(), **{name: 10**9}))
    with pytest.raises(CheckpointError, match=f"says {name}: 1000000000; whole numbers from 1 to"):
        registry.processor_of(checkpoint)


@pytest.mark.parametrize("size", [0, -1, 10**19])
@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("vision_config",), "patch_size"),
        (("vision_config",), "temporal_patch_size"),
        (("vision_config",), "window_size"),
        (("audio_config",), "n_window"),
        ((), "position_id_per_seconds"),
        ((), "seconds_per_chunk"),
    ],
)
def test_sizes_that_no_clip_can_be_priced_with_are_named_when_they_are_read(checkpoint, path, name, size):
    place = checkpoint / "config.json"
    place.write_text(_with(place.read_text(), "thinker_config", *path, **{name: size}))
    with contextlib.suppress(CheckpointError):
        Estimator(str(checkpoint)).clip(QUESTIONS, Pruning(), frames=4, height=64, width=96, samples=32_000, fps=2.0)


def _with(text: str, *path: str, **values: object) -> str:
    given = json.loads(text)
    place = given
    for part in path:
        place = place[part]
    place.update(values)
    return json.dumps(given)
