"""What is counted without transformers is what transformers says: defaults, other names, a checkpoint's values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omnidrop.errors import CheckpointError
from omnidrop.models import families
from omnidrop.models.configuration import Fields, differences
from omnidrop.models.registry import geometry_of, load
from tests.support.small_checkpoints import small_qwen2_5_omni, small_qwen3_omni

__all__ = ["small_qwen2_5_omni", "small_qwen3_omni"]

PARTS = ("text_config", "vision_config", "audio_config")


@pytest.mark.parametrize("family", families.titles())
def test_defaults_and_other_names_are_those_of_transformers(family: str) -> None:
    fields, theirs = families.geometry_of(family).fields, families.adapter_of(family).config_class()
    assert list(differences(fields.read({"text_config": {}}), theirs(text_config={}))) == []
    for part in PARTS:
        ours: type[Fields] = fields.model_fields[part].annotation
        other_names = getattr(theirs(), part).attribute_map
        for other, name in other_names.items():
            if name in ours.model_fields:
                said = {"text_config": {}, part: {other: 7}}
                assert list(differences(fields.read(said), theirs(**said))) == []


@pytest.mark.parametrize("made", ["small_qwen2_5_omni", "small_qwen3_omni"])
def test_a_value_that_transformers_would_read_otherwise_is_refused_when_it_is_loaded(
    made: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory: Path = request.getfixturevalue(made)
    fields = families.geometry_of(geometry_of(directory).family).fields
    read = fields.read

    def otherwise(thinker: dict[str, Any]) -> Any:
        config = read(thinker)
        return config.model_copy(update={"position_id_per_seconds": config.position_id_per_seconds + 1})

    monkeypatch.setattr(fields, "read", otherwise)
    with pytest.raises(CheckpointError, match=r"wrongly: position_id_per_seconds is \d+ and \d+ in transformers"):
        load(str(directory), dtype="float32")


@pytest.mark.parametrize(
    ("part", "given", "said"),
    [
        ("text_config", {"num_hidden_layers": "4"}, "text_config.num_hidden_layers: .*got '4'"),
        ("vision_config", {"spatial_merge_size": None}, "vision_config.spatial_merge_size"),
        ("audio_config", [], "audio_config"),
        ("text_config", {"num_attention_heads": 0}, "not a usable"),
    ],
)
def test_a_field_of_another_kind_is_named(
    small_qwen2_5_omni: Path, tmp_path: Path, part: str, given: Any, said: str
) -> None:
    for file in small_qwen2_5_omni.iterdir():
        if file.name != "config.json":
            (tmp_path / file.name).symlink_to(file)
    config = json.loads((small_qwen2_5_omni / "config.json").read_text())
    thinker = config.get("thinker_config", config)
    thinker[part] = thinker[part] | given if isinstance(given, dict) else given
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=said):
        geometry_of(tmp_path)


def test_planning_loads_no_torch_and_a_run_that_plans_no_transformers() -> None:
    """Half of what a driver, and a third of what `omnidrop plan`, took."""
    code = """
import sys
from omnidrop.estimate import Estimator
from omnidrop.pruning import Pruning
from omnidrop.question_text import as_questions
from pipeline.planning import feasibility
from workers.model.description import AnswererDescription

shape = {"frames": 8, "height": 112, "width": 112, "samples": 64_000, "fps": 2.0}
for model in ("tiny", "tiny-v3"):
    Estimator(model).schedule(Pruning(), **shape)
print(*sorted({"torch", "transformers"} & {*sys.modules}))
for pruning in (Pruning(), Pruning.off(), Pruning(encoder_share=0.5), Pruning(settings=(("memory", 0.5),))):
    Estimator("tiny").clip(as_questions(["Is it red? [yes/no]"]), pruning, **shape)
print(*sorted({"torch"} & {*sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n\n"
