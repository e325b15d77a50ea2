"""`pruning.policy` and `pruning.settings`: checked by the policy, the same in a file, an option and Python."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cli import main
from omnidrop import policies
from omnidrop.errors import PolicyError
from omnidrop.estimate import Estimator
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Question
from pipeline.config.job import JobConfig, JobError, load_job, make_job
from pipeline.config.worker_settings import pruning_of
from pipeline.planning.recipe import make_recipe
from pipeline.questions.question_set import load_question_set

SMALL = {"name": "small", "archive": {"uri": "/videos"}, "output": "/answers", "question_set": "toy-world"}
QUESTIONS = [Question("red", "Is a red shape shown?", Boolean())]


def job(**pruning: object) -> JobConfig:
    return make_job({**SMALL, "pruning": pruning})


def recipe(of: JobConfig) -> str:
    return make_recipe(of, load_question_set("toy-world"), "weights").hash


def test_settings_reach_the_policy_and_the_recipe() -> None:
    tuned = job(settings={"memory": 0.5, "merge": False})
    policy = pruning_of(tuned.pruning).build()
    assert (policy.memory, policy.merge) == (0.5, False)  # type: ignore[attr-defined]
    assert recipe(tuned) != recipe(job())


@pytest.mark.parametrize(
    ("policy", "spelled_out"),
    [
        ("omnidrop", {"memory": 0.7, "diversity": "normalised"}),
        ("omnidrop", {"beta": 20}),
        ("divprune", {"merge": False}),
        ("vidcom2", {"temperature": 0.01}),
    ],
)
def test_a_default_spelled_out_is_no_other_recipe(policy: str, spelled_out: dict[str, object]) -> None:
    assert recipe(job(policy=policy, settings=spelled_out)) == recipe(job(policy=policy))


def test_a_setting_written_in_two_ways_is_one_recipe() -> None:
    assert recipe(job(settings={"t_mid": 1})) == recipe(job(settings={"t_mid": 1.0}))
    # YAML reads a bare `off` as false.
    assert recipe(job(settings={"diversity": False})) == recipe(job(settings={"diversity": "off"}))
    assert recipe(job(settings={"beta": 9, "memory": 0})) == recipe(job(settings={"memory": 0, "beta": 9}))


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        ({"settings": {"memori": 0.5}}, "no setting 'memori'; allowed: merge, read_left_out, beta"),
        ({"settings": {"memory": "much"}}, "memory must be a number, got 'much'"),
        ({"settings": {"memory": True}}, "memory must be a number, got True"),
        ({"settings": {"merge": 1}}, "merge must be true or false, got 1"),
        ({"settings": {"memory": 7}}, "memory must be 0 to 1, got 7.0"),
        ({"settings": {"entry": "best"}}, "entry must be one of cover, rare, diverse, merged, got 'best'"),
        ({"settings": {"p_init": 0.1}}, "give both p_init and p_final"),
        (
            {"policy": "random", "settings": {"beta": 2.0}},
            "has no setting 'beta'; allowed: merge, read_left_out, seed",
        ),
        ({"settings": {"read_left_out": "yes"}}, "read_left_out must be true or false, got 'yes'"),
        (
            {"settings": {"read_left_out": True}, "encoder_share": 0.5},
            r"with encoder_share 0\.5 and still_levels 2 only some are encoded: remove read_left_out",
        ),
        ({"settings": {"read_left_out": True}, "read_left_out": False}, "False, but True among settings"),
        ({"policy": "fastv", "retained_ratio": 0.6, "read_left_out": True}, "policy 'fastv' has no read_left_out"),
        ({"policy": "omnidrp"}, "did you mean omnidrop"),
        ({"policy": "omnidrop", "settings": ["merge"]}, "settings"),
    ],
)
def test_what_a_policy_does_not_take_is_refused_with_what_it_takes(pruning: dict[str, object], message: str) -> None:
    with pytest.raises(JobError, match=message):
        job(**pruning)


def test_file_and_options_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    text = "name: small\narchive: {uri: /videos}\noutput: /answers\nquestion_set: toy-world\n"
    path.write_text(text + "pruning: {settings: {memory: 0.5, diversity: off}}\n")
    from_file = load_job(path)
    path.write_text(text)
    from_options = load_job(path, {"pruning.settings.memory": 0.5, "pruning.settings.diversity": False})
    assert recipe(from_file) == recipe(from_options)


def test_rates_of_ones_own_need_no_ratio() -> None:
    given = job(policy="omnidrop_paper", settings={"p_init": 0.0, "p_final": 0.2})
    assert given.pruning.retained_ratio is None
    assert pruning_of(given.pruning).retained_ratio is None
    schedule = pruning_of(given.pruning).build()
    assert (schedule.p_init, schedule.p_final) == (0.0, 0.2)  # type: ignore[attr-defined]
    with pytest.raises(PolicyError, match="not both"):
        estimated(Pruning(policy="omnidrop_paper", retained_ratio=0.3, settings=(("p_init", 0.0), ("p_final", 0.2))))


def test_a_setting_that_does_less_than_its_name_says_is_remarked() -> None:
    assert not policies.remark("omnidrop", {"memory": 0.5})
    assert not policies.remark("omnidrop", {"audio_keep": 0.5, "entry": "rare"})
    assert "to set the share of the audio, add entry: rare" in policies.remark("omnidrop", {"audio_keep": 0.5})
    assert not policies.remark("omnidrop", {"least_audio": 4})
    assert "does nothing with entry rare" in policies.remark("omnidrop", {"least_audio": 4, "entry": "rare"})


def estimated(pruning: Pruning) -> float:
    shape = {"frames": 8, "height": 112, "width": 112, "samples": 64_000, "fps": 2.0}
    return Estimator("tiny").clip(QUESTIONS, pruning, **shape).retained_ratio  # type: ignore[arg-type]


def test_neither_job_nor_plan_loads_torch_for_a_policys_name() -> None:
    code = (
        "import sys, pipeline.config.sections as s, pipeline.cost.clip_prices, workers.model.settings\n"
        "s.PruningConfig(policy='seats')\n"
        "from omnidrop import policies; policies.names()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


ONE_FILE = '''
"""Every second token."""
from dataclasses import dataclass
from typing import ClassVar

import torch

from omnidrop import policies
from omnidrop.policies.at_input import AtInput
from omnidrop.policies.merging import Merging


@policies.register
@dataclass(frozen=True)
class EveryOther(AtInput, Merging):
    name: ClassVar[str] = "every_other"
    offset: int = 0

    def chosen(self, tokens, keep):
        return torch.sort((torch.arange(keep) * tokens.count // keep + self.offset) % tokens.count).values
'''


def test_a_policy_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written here, it is a policy of job files, of prices, of models and of the command line."""
    (tmp_path / "every_other.py").write_text(ONE_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    before = policies.names()
    try:
        __import__("every_other")
        assert "every_other" in policies.names()
        given = job(policy="every_other", retained_ratio=0.5, settings={"offset": 1})
        assert recipe(given) != recipe(job(policy="every_other", retained_ratio=0.5))
        assert estimated(pruning_of(given.pruning)) == pytest.approx(0.5, abs=0.02)
        with pytest.raises(JobError, match=r"offset must be a whole number, got 0\.5"):
            job(policy="every_other", settings={"offset": 0.5})
        report = tmp_path / "report.json"
        arguments = "evaluate toy-world --clips 1 --questions 2 --policy every_other --setting offset=1 --json"
        monkeypatch.setattr(sys, "argv", ["omnidrop", *arguments.split(), str(report)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        (arm,) = json.loads(report.read_text())["arms"]
        assert arm["policy"] == "every_other"
    finally:
        policies.registry._POLICIES.pop("every_other", None)
    assert policies.names() == before


def test_the_pruning_of_python_takes_what_a_job_takes() -> None:
    for policy in policies.names():
        ratio = None if policy == "none" else 0.5
        made = Pruning(policy=policy, retained_ratio=ratio)
        assert made == replace(made, settings=())
    assert Pruning(settings=(("memory", 0.7),)) == Pruning()


def test_a_policys_defaults_are_those_of_a_pruning_that_says_nothing() -> None:
    for policy in policies.names():
        assert Pruning(policy=policy, retained_ratio=None if policy == "none" else 0.5).build() == policies.named(
            policy
        )
