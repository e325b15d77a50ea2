"""Checkpoints of the hub, asked of a stub of it that the real client talks to."""

import json
import shutil

import pytest

from omnidrop.errors import CheckpointError
from omnidrop.estimate import Estimator
from omnidrop.models.checkpoints import (
    EMBEDDED,
    checkpoint_hash,
    configuration_of,
    describe_checkpoint,
    resolve_checkpoint,
)
from omnidrop.models.hub import hub_revision
from omnidrop.models.registry import read_geometry, weights_hash
from tests.support.stub_hub import stub_hub


def test_a_checkpoint_is_described_without_its_weights(hub):
    described = describe_checkpoint("acme/tiny@v1")
    assert hub.fetched
    assert hub.weights_fetched == []
    assert described.weights_hash == checkpoint_hash(EMBEDDED["tiny"]) == weights_hash("acme/tiny")
    assert described.revision == hub.commit("acme/tiny")
    assert (described.directory / "tokenizer.json").read_bytes() == (EMBEDDED["tiny"] / "tokenizer.json").read_bytes()
    assert read_geometry("acme/tiny") == read_geometry("tiny")
    assert Estimator("acme/tiny").geometry == Estimator("tiny").geometry
    assert hub.weights_fetched == []


def test_loading_fetches_the_weights_to_the_same_place_and_the_hash_stays(hub):
    described = describe_checkpoint("acme/tiny")
    directory = resolve_checkpoint(f"acme/tiny@{described.revision}")
    assert len(hub.weights_fetched) == 1
    assert directory == described.directory
    assert hub_revision(directory) == described.revision
    assert checkpoint_hash(directory) == described.weights_hash
    assert describe_checkpoint("acme/tiny") == described
    assert len(hub.weights_fetched) == 1


def test_a_small_weight_file_that_the_hub_keeps_in_git_is_fetched_for_its_digest(hub):
    hub.in_git = {"model.safetensors"}
    assert describe_checkpoint("acme/tiny").weights_hash == checkpoint_hash(EMBEDDED["tiny"])
    assert hub.weights_fetched == ["model.safetensors"]


def test_other_weights_are_another_checkpoint(hub):
    before = describe_checkpoint("acme/tiny")
    with (hub.folder / "acme" / "tiny" / "model.safetensors").open("ab") as weights:
        weights.write(b"\0")
    after = describe_checkpoint("acme/tiny")
    assert after.weights_hash != before.weights_hash
    # A commit stays what it is.
    assert describe_checkpoint(f"acme/tiny@{before.revision}") == before


@pytest.mark.parametrize("lie", ["commit", "sha256", "oid"])
def test_nothing_that_a_hub_replies_is_written_outside_its_cache(hub, tmp_path, monkeypatch, lie):
    evil = "../../../../evil"
    if lie == "oid":
        honest = hub.entry
        monkeypatch.setattr(hub, "entry", lambda path: honest(path) | {"oid": evil})
    else:
        monkeypatch.setattr(hub, lie, lambda *_: evil)
    with pytest.raises(
        CheckpointError, match=r"names a file's content '\.\./\.\./\.\./\.\./evil', which is not a digest"
    ):
        describe_checkpoint("acme/tiny")
    assert not list(tmp_path.rglob("*evil*"))


def test_what_was_described_once_is_known_without_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(EMBEDDED["tiny"], tmp_path / "hub" / "acme" / "tiny")
    with stub_hub(tmp_path / "hub", tmp_path / "hub-cache", monkeypatch) as hub:
        described = describe_checkpoint("acme/tiny")
        asked = len(hub.requests)
    assert describe_checkpoint("acme/tiny") == describe_checkpoint(f"acme/tiny@{described.revision}") == described
    assert configuration_of("acme/tiny") == described.directory
    assert len(hub.requests) == asked
    with pytest.raises(CheckpointError, match="it cannot be fetched from the hub"):
        resolve_checkpoint("acme/tiny")
    with pytest.raises(CheckpointError, match="it cannot be fetched from the hub"):
        describe_checkpoint("acme/large")


@pytest.mark.parametrize("described", [True, False])
def test_what_loading_would_miss_is_said_before_anything_large_is_fetched(hub, described):
    folder = hub.folder / "acme" / "tiny"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    ask = describe_checkpoint if described else resolve_checkpoint
    with pytest.raises(CheckpointError, match=r"lacks 1 of 1 weight files: model-2\.safetensors"):
        ask("acme/tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no \.safetensors weights"):
        ask("acme/tiny")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks config\.json"):
        ask("acme/tiny")


def test_a_repository_that_is_not_there_is_named(hub):
    with pytest.raises(CheckpointError, match=r"there is no folder 'acme/none'.*RepositoryNotFound"):
        describe_checkpoint("acme/none")
