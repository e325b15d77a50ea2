"""Whatever stands in a manifest, a question set, a checkpoint's JSON or a listing: a value of ours or an error of ours.

A slice in every run; `make fuzz` tries `OMNIDROP_FUZZ_EXAMPLES` of each kind.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnidrop.errors import CheckpointError, OmniDropError
from omnidrop.models.checkpoints import EMBEDDED, check_files, video_bounds
from omnidrop.models.registry import geometry_of
from pipeline.journal.recipes import decode_recipe
from pipeline.questions.question_set import load_question_set
from pipeline.records.heads_and_runs import decode_run
from pipeline.review.label_studio import imported
from pipeline.storage.errors import StorageError
from pipeline.storage.s3_client import s3_objects
from pipeline.storage.store import open_store
from pipeline.tables import manifest
from pipeline.toy_world.truth import read_truth

EXAMPLES = int(os.environ.get("OMNIDROP_FUZZ_EXAMPLES", "40"))
fuzzed = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.just(10**30),
    st.just("../x"),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def changed(given: dict, path: tuple[str, ...], value: object) -> dict:
    """A copy in which one field is another."""
    result = json.loads(json.dumps(given))
    place = result
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return result


MANIFEST = {
    **{
        "generation": 1,
        "digest": "d",
        "rows": {"answers": 1},
        "published_at": "",
        "format_version": manifest.FORMAT_VERSION,
    },
    "tables": {"answers": ["generation=000001/answers/part-00000.parquet"]},
    "files": {"generation=000001/answers/part-00000.parquet": {"bytes": 1, "blake2b": "", "rows": 1}},
}


@fuzzed
@given(field=st.sampled_from(sorted(MANIFEST)), value=JSON, whole=st.booleans())
def test_manifests(tmp_path, field, value, whole):
    (tmp_path / "tables").mkdir(exist_ok=True)
    content = value if whole else changed(MANIFEST, (field,), value)
    (tmp_path / "tables" / "current.json").write_text(json.dumps(content))
    with contextlib.suppress(OmniDropError):
        found = manifest.current(open_store(str(tmp_path)))
        assert all(manifest.generation_of(f"tables/{path}") for paths in found.tables.values() for path in paths)


PIECES = ["name: a\n", "version: 1\n", "questions:\n", "  - id: q\n", "    text: '{{ media.name }}'\n", "    text: \"{{ 1 | round(x) }}\"\n", "    answer: {type: choice, options: [a, b]}\n", "    answer: {type: number}\n", "variables: {x: 1}\n", "- &a [*a]\n", "? [1]: 2\n", "{% for %}", "\x00", "!!python/object:x\n", "instruction: '{% if vars.x %}'\n"]  # noqa: E501  # fmt: skip


@fuzzed
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=12), max_size=14).map("".join))
def test_question_sets(tmp_path, text):
    path = tmp_path / "set.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(OmniDropError):
        load_question_set(str(path))


FIELDS = [
    *(("model_type",), ("thinker_config",), ("thinker_config", "text_config"), ("thinker_config", "vision_config")),
    *(("thinker_config", "audio_config"), ("thinker_config", "text_config", "num_attention_heads")),
    *(("thinker_config", "text_config", "hidden_size"), ("thinker_config", "vision_config", "patch_size")),
    ("auto_map",),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    for path in EMBEDDED["tiny"].iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "config.json").unlink()
    return folder


@fuzzed
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_configurations_of_checkpoints(checkpoint, field, value):
    honest = json.loads((EMBEDDED["tiny"] / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(changed(honest, field, value)))
    with contextlib.suppress(CheckpointError):
        check_files(checkpoint)
        video_bounds(checkpoint)
        geometry_of(checkpoint)


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "read",
    [
        lambda path: manifest.current(open_store(str(path.parent.parent))),
        lambda path: decode_recipe(path.read_bytes(), where="it"),
        lambda path: decode_run(path.read_bytes(), where="it"),
        lambda path: imported(path, None, "job"),
        lambda path: read_truth(path),
        lambda path: check_files(path.parent),
    ],
    ids=["manifest", "recipe", "run", "label-studio", "truth", "checkpoint"],
)
def test_no_nesting_is_too_deep_for_a_sentence(tmp_path, read):
    (tmp_path / "tables").mkdir()
    for name in ("current.json", "config.json"):
        (tmp_path / "tables" / name).write_bytes(DEEP)
    with pytest.raises(OmniDropError):
        read(tmp_path / "tables" / "current.json")


ENTRY = st.fixed_dictionaries({}, optional={"Key": SCALARS, "ETag": SCALARS, "Size": SCALARS})
PAGE = st.fixed_dictionaries(
    {},
    optional={"Contents": st.lists(ENTRY, max_size=3), "IsTruncated": st.booleans(), "NextContinuationToken": SCALARS},
)


@fuzzed
@given(st.lists(PAGE, max_size=4))
def test_pages_of_listings(pages):
    """As a client hands them over, whatever the server sent."""
    following = iter(pages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.storage.s3_client.within", lambda *_, **__: next(following, {}))
        with contextlib.suppress(StorageError):
            for item in s3_objects(None, "bucket", ""):
                assert isinstance(item["Key"], str)
                assert 0 <= item["Size"] < 1 << 63
