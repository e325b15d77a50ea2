"""Which machine decodes which file."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from pipeline.execution import homes
from pipeline.execution.clip_state import ClipState, UnitState
from pipeline.execution.homes import Waiting, home_of
from tests.support import rows

FILES = [replace(rows.media(n), uri=f"s3://archive/{n}.mp4") for n in range(300)]


def states(media, clips):
    owner = UnitState(rows.unit(media, clips=clips))
    return [ClipState(owner, clip, 1) for clip in owner.unit.clips]


@pytest.fixture
def machines(monkeypatch):
    monkeypatch.setattr(homes, "LOOK_S", 0.0)
    return {"one": 2, "two": 2, "three": 2}


def begun(waiting, *, may_help=False):
    """All that may begin now."""
    return begun_up_to(1_000, waiting, may_help=may_help)


def begun_up_to(most, waiting, *, may_help=False):
    found = []
    while len(found) < most and (state := waiting.next(may_help=may_help)) is not None:
        waiting.started(state)
        found.append(state)
    return found


def test_files_are_spread_and_only_those_of_a_lost_machine_move():
    before = {media.uri: home_of(media, ["one", "two", "three"]) for media in FILES}
    assert all(60 < count < 140 for count in Counter(before.values()).values())
    after = {media.uri: home_of(media, ["three", "one"]) for media in FILES}
    assert {uri for uri in before if before[uri] != after[uri]} == {uri for uri in before if before[uri] == "two"}


def test_a_files_clips_begin_where_it_is_and_no_faster_than_that_machine_decodes(machines):
    waiting = Waiting(lambda: machines, 4)
    for media in FILES[:30]:
        waiting.add(states(media, clips=4))
    first = begun(waiting)
    assert Counter(state.machine for state in first) == machines
    assert all(state.machine == home_of(state.owner.unit.media, machines) for state in first)
    waiting.ended(first[0])
    (following,) = begun(waiting)
    assert following.machine == first[0].machine
    # A machine goes: what waited for it waits for others now.
    del machines[first[0].machine]
    for state in first[1:]:
        waiting.ended(state)
    assert {state.machine for state in begun(waiting)} == set(machines)


def test_a_machine_without_work_helps_one_that_has_too_much(machines):
    waiting = Waiting(lambda: machines, 6)
    clips = states(FILES[0], clips=20)
    waiting.add(clips)
    home = home_of(FILES[0], machines)
    assert [(state.clip, state.machine) for state in begun(waiting)] == [(one.clip, home) for one in clips[:2]]
    helped = begun(waiting, may_help=True)
    assert [(state.clip, state.is_helped) for state in helped] == [(one.clip, True) for one in clips[:-5:-1]]
    assert home not in {state.machine for state in helped}
    assert waiting.next(may_help=True) is None
    assert len(waiting) == 20 - 2 - 4


def test_clips_for_machines_that_are_yet_to_come_wait_for_any(machines):
    waiting = Waiting(lambda: machines, 8)
    waiting.add(states(FILES[0], clips=20))
    found = begun_up_to(8, waiting)
    assert [state.machine for state in found] == 2 * [home_of(FILES[0], machines)] + 6 * [""]
    assert all(state.is_helped for state in found[2:])


def test_on_one_machine_clips_come_in_their_order():
    waiting = Waiting(lambda: {"one": 2}, 6)
    clips = [state for media in FILES[:5] for state in states(media, clips=3)]
    waiting.add(clips)
    assert begun(waiting) == clips
    assert {state.machine for state in clips} == {""}
