"""A run that can decode nothing any more, or has no machine for its model, says so, and does not wait for ever."""

from __future__ import annotations

import pytest
import ray

from pipeline.execution import backends, cluster_room
from pipeline.execution.actor_pool import ExecutionError
from pipeline.execution.cluster_room import NO_ROOM_S, ClusterRoom
from pipeline.execution.homes import LOOK_S
from pipeline.execution.worker_failures import slots_of


@pytest.mark.parametrize(
    ("room", "out", "said"),
    [
        ({}, {}, "no machine that decodes is left in the cluster; start one"),
        ({"one": 0}, {}, "the model actors leave no CPU core for decoding; lower model.actors"),
        (
            {"one": 2, "two": 0},
            {"one": "no ffmpeg"},
            r"no CPU core of the machines that still decode \(out: no ffmpeg\)",
        ),
    ],
)
def test_a_run_ends_when_there_is_no_core_to_decode_on_for_long(monkeypatch, caplog, room, out, said):
    now = [0]
    monkeypatch.setattr(cluster_room.time, "monotonic", lambda: now[0])
    looks = ClusterRoom(lambda: room, str)
    for now[0] in range(0, int(NO_ROOM_S) + 1, int(LOOK_S)):
        looks.look(out, is_decoding=True, is_loading=False)
    now[0] += LOOK_S
    with pytest.raises(ExecutionError, match=said):
        looks.look(out, is_decoding=True, is_loading=False)
    assert caplog.text.count("waiting 600 s for the cluster to grow") == 1


@pytest.mark.parametrize("room", [None, {"one": 0, "two": 1}])
def test_a_run_goes_on_where_there_is_room_or_nothing_is_known(monkeypatch, room):
    now = [0]
    monkeypatch.setattr(cluster_room.time, "monotonic", lambda: now[0])
    looks = ClusterRoom(lambda: room, str)
    for now[0] in range(0, 2 * int(NO_ROOM_S), int(LOOK_S)):
        looks.look({}, is_decoding=True, is_loading=True)


def test_slots_come_from_one_look_at_the_cluster(monkeypatch):
    looks = []

    def nodes():
        looks.append(1)
        there = {"a": {"CPU": 4.0}, "b": {"CPU": 2.0}, "with a GPU": {"CPU": 8.0, "GPU": 1.0}, "gone": {"CPU": 16.0}}
        return [{"NodeID": name, "Alive": name != "gone", "Resources": has} for name, has in there.items()]

    monkeypatch.setattr(ray, "nodes", nodes)
    assert backends._beside(slots_of, "CPU", 1.5, {"a": 1, "b": 1}) == {"a": 2, "b": 0}
    assert len(looks) == 1


def test_a_machine_that_could_hold_an_actor_is_told_from_none(monkeypatch):
    there = {"head": {}, "a": {"CPU": 4.0}, "b": {"CPU": 2.0, "GPU": 1.0}, "gone": {"CPU": 64.0, "GPU": 8.0}}
    nodes = [{"NodeID": name, "Alive": name != "gone", "Resources": has} for name, has in there.items()]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert [backends._no_actor_room(*wants) for wants in ((4, 0), (2, 1), (0.5, 0.5))] == ["", "", ""]
    assert "CPU cores: 4," in backends._no_actor_room(4, 1)
    assert "model.gpus_per_actor); the machines have 4 and 0; 2 and 1; 0 and 0" in backends._no_actor_room(1, 2)
