"""A job whose checkpoint lies on the hub: what is planned needs none of its weights."""

import re

import pytest

from omnidrop.errors import CheckpointError
from omnidrop.models.checkpoints import EMBEDDED, checkpoint_hash
from tests.support.small_jobs import cli, run
from workers.model.answerer import Answerer
from workers.model.settings import AnswererSettings


def test_a_plan_and_a_run_without_work_fetch_no_weights_and_ask_nothing_again(job, hub):
    job.write_text(job.read_text().replace("uri: archive", "uri: archive, include: [short.mp4]"))
    assert run(job).run.counts.clips_answered == 1
    named = ("--model", "acme/tiny", "--model-revision", "v1")
    planned = cli("plan", job, *named)
    assert planned.exit_code == 0, planned.output
    assert re.search(r"clips +. +0 to do", planned.output), planned.output
    checked = cli("validate", job, *named, "--no-weights")
    assert checked.exit_code == 0, checked.output
    assert f"at commit {hub.commit('acme/tiny')[:12]}" in checked.output
    assert "2 questions laid out" in checked.output
    # What the directory answered is the hub's checkpoint's, too: nothing is asked again.
    again = run(job, model={"path": "acme/tiny", "revision": "v1"})
    assert again.run.counts.clips_answered == 0
    assert again.run.model_revision == hub.commit("acme/tiny")
    assert hub.weights_fetched == []
    # Another question, and the weights are needed.
    asked = run(job, model={"path": "acme/tiny"}, pruning={"retained_ratio": 0.5})
    assert asked.run.counts.clips_answered == 1
    assert hub.weights_fetched == ["model.safetensors"]


def test_a_machine_with_other_weights_than_planned_answers_nothing():
    planned = checkpoint_hash(EMBEDDED["tiny-v2"])
    with pytest.raises(CheckpointError, match=f"differs from the planned one.*not {planned[:12]}"):
        Answerer(AnswererSettings("tiny", device="cpu", weights_hash=planned)).load()
