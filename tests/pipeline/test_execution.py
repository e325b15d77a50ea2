"""The execution loop on a real Ray, with tasks and actors that misbehave on purpose."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import ray

from pipeline import failure_rules
from pipeline.execution import backends, cluster_room
from pipeline.execution.actor_pool import ExecutionError
from pipeline.execution.backend import Backend, Limits
from pipeline.execution.clip_state import ClipState, UnitState
from pipeline.execution.homes import home_of
from pipeline.execution.in_process import execute_in_process
from pipeline.execution.machines import Machines
from pipeline.execution.scheduler import RayExecution
from tests.support import rows, stand_ins
from tests.support.stand_ins import CLIP_BYTES
from workers.ray_workers import ACTOR_OPTIONS
from workers.records import ClipFailure, DecodedClip
from workers.whole_text import Line

pytestmark = pytest.mark.cluster

LIMITS = Limits(
    bytes_in_flight=10 * CLIP_BYTES,
    decode_tasks=2,
    actors=2,
    max_deaths_per_clip=2,
    max_deaths_per_worker=3,
    max_retries=2,
    stop_grace_s=20,
)


decode = ray.remote(num_cpus=1, max_retries=0, num_returns=2)(stand_ins.decode)
Actor = ray.remote(num_cpus=0, **ACTOR_OPTIONS)(stand_ins.Actor)


def backend(folder):
    return Backend(
        start_decode=lambda unit, clip: tuple(decode.remote(str(folder), clip)),
        start_actor=lambda: Actor.remote(str(folder)),
        estimate_bytes=lambda unit, clip: CLIP_BYTES,
    )


def units(count=6, clips=4):
    return [rows.unit(rows.media(n), first=10 * n, clips=clips) for n in range(count)]


def run(folder, given, limits=LIMITS, stop=None):
    execution = RayExecution(backend(folder), limits, stop or threading.Event())
    finished = list(execution.run(given))
    return {r.unit.unit_id: r.outcomes for r in finished}, execution.statistics


def check_answers(given, finished):
    """Every clip has one outcome, in order, and every answer belongs to its clip."""
    assert set(finished) == {u.unit_id for u in given}
    for unit in given:
        assert [o.clip for o in finished[unit.unit_id]] == list(unit.clips)
        for outcome in finished[unit.unit_id]:
            if not isinstance(outcome, ClipFailure):
                assert outcome.answers.answers[0].value == str(outcome.clip.index)


@pytest.fixture
def folder(tmp_path, ray_session):
    return tmp_path


def test_answers_stay_with_their_clips_whatever_finishes_first(folder):
    given = units(8)
    finished, statistics = run(folder, given)
    check_answers(given, finished)
    assert statistics.peak_bytes_in_flight <= LIMITS.bytes_in_flight
    assert 1 <= len(statistics.actors) <= 2


def test_one_clip_larger_than_the_bound_still_runs(folder):
    given = units(2, clips=2)
    finished, statistics = run(folder, given, replace(LIMITS, bytes_in_flight=CLIP_BYTES // 2))
    check_answers(given, finished)
    assert statistics.peak_bytes_in_flight == CLIP_BYTES


@pytest.mark.parametrize(
    ("what", "times", "error_class"),
    [
        pytest.param("kill-decode", 1, None, marks=pytest.mark.long),
        pytest.param("kill-actor", 1, None, marks=pytest.mark.long),
        ("kill-readying", 99, None),
        ("storage", 2, None),
        ("kill-decode", 99, "worker_died"),
        ("kill-actor", 99, "worker_died"),
        ("storage", 99, "storage"),
        ("decode_failed", 1, "decode_failed"),
        ("raise-decode", 1, "internal"),
    ],
)
def test_a_bad_clip_costs_that_clip_and_nothing_else(folder, what, times, error_class, monkeypatch):
    monkeypatch.setattr(failure_rules, "FIRST_PAUSE_S", 0.1)
    given = units(3)
    bad = given[1].clips[2]
    (folder / f"{what}-{bad.index}").write_text(str(times))
    finished, _ = run(folder, given)
    check_answers(given, finished)
    failures = {o.clip.index: o.error_class for os in finished.values() for o in os if isinstance(o, ClipFailure)}
    assert failures == ({bad.index: error_class} if error_class else {})


def test_what_is_read_about_whole_videos_needs_no_decoding_and_has_the_same_rules(folder):
    """Between clips, with one that kills its actor once, one that always does, and hardly room for any."""
    given = units(3)
    texts = [
        replace(of, unit_id=f"whole {n}", clips=(replace(of.clips[0], index=n),), lines=(Line(0.0, 8.0, f"{n}"),))
        for n, of in enumerate(given, start=90)
    ]
    (folder / "kill-actor-90").write_text("1")
    (folder / "kill-actor-91").write_text("99")
    mixed = [given[0], texts[0], given[1], texts[1], texts[2], given[2]]
    finished, _ = run(folder, mixed, replace(LIMITS, bytes_in_flight=CLIP_BYTES))
    check_answers(mixed, finished)
    failures = {name: one.error_class for name, (one, *_) in finished.items() if isinstance(one, ClipFailure)}
    assert failures == {"whole 91": "worker_died"}


def test_a_clip_is_made_ready_while_another_is_answered_and_deaths_are_the_right_ones(folder):
    """Two clips are in an actor: one that kills it while it is made ready is found out, the other is not charged."""
    given = units(3)
    bad = given[1].clips[1]
    for what in ("kill-readying", "kill-actor"):
        (folder / f"{what}-{bad.index}").write_text("99")
    (folder / "slow-model").touch()  # so that the next clip is always there before an answer
    finished, statistics = run(folder, given, replace(LIMITS, actors=1, bytes_in_flight=40 * CLIP_BYTES))
    check_answers(given, finished)
    failures = {o.clip.index: o.error_class for os in finished.values() for o in os if isinstance(o, ClipFailure)}
    assert failures == {bad.index: "worker_died"}
    assert len(list(folder.glob("readied-*"))) > 5
    # While it was made ready, charged to nobody, and twice alone.
    assert statistics.worker_failures["actor"] == 3
    assert statistics.worker_failures["answer"] == 2


@pytest.mark.parametrize("times", [0, 1, 99])
def test_clips_are_answered_together_and_die_alone(folder, times):
    """A call for several clips that kills its actor is held against none of them; each is then tried alone."""
    given = units(6)
    bad = given[1].clips[2]
    (folder / f"kill-actor-{bad.index}").write_text(str(times))
    limits = replace(LIMITS, actors=1, clips_per_pass=4, bytes_in_flight=40 * CLIP_BYTES)
    finished, statistics = run(folder, given, limits)
    check_answers(given, finished)
    sizes = {int(path.name.removeprefix("together-")) for path in folder.glob("together-*")}
    assert sizes
    assert sizes <= {2, 3, 4}
    failures = {o.clip.index: o.error_class for os in finished.values() for o in os if isinstance(o, ClipFailure)}
    assert failures == ({bad.index: "worker_died"} if times == 99 else {})
    # Where its first call was for several clips, it kills once more than its cap.
    assert statistics.worker_failures["actor"] in ((times,) if times < 2 else (2, 3))


def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_reason(folder):
    (folder / "bad-model").touch()
    with pytest.raises(ExecutionError, match="no weights here"):
        run(folder, units(1))


def test_an_actor_that_keeps_dying_ends_the_run(folder):
    (folder / "deadly-model").touch()
    with pytest.raises(ExecutionError, match="died 3 times in a row"):
        run(folder, units(1))


@pytest.mark.long
def test_poison_clips_in_a_row_cost_those_clips_and_not_the_run(folder):
    given = units(4)
    poison = [clip.index for clip in (given[1].clips[-1], given[2].clips[0])]
    for index in poison:
        (folder / f"kill-actor-{index}").write_text("99")
    finished, statistics = run(folder, given, replace(LIMITS, actors=1))
    check_answers(given, finished)
    failures = {o.clip.index: o.error_class for os in finished.values() for o in os if isinstance(o, ClipFailure)}
    assert failures == dict.fromkeys(poison, "worker_died")
    # Twice each; once more where the actor died while it made the next clip ready, which is charged to neither.
    assert 2 * len(poison) <= statistics.worker_failures["actor"] <= 3 * len(poison)


def test_a_machine_that_comes_to_kill_every_clip_ends_the_run(folder):
    given = units(6)
    execution = RayExecution(backend(folder), replace(LIMITS, actors=1), threading.Event())
    finished = execution.run(given)
    first = next(finished)
    (folder / "deadly-machine").touch()
    with pytest.raises(
        ExecutionError, match=r"died 4 times in a row .* the last time on a clip that was answered before"
    ):
        list(finished)
    assert first.unit in given


def test_an_actor_is_not_checked_for_ever_when_the_last_machine_that_decodes_goes(folder, monkeypatch):
    monkeypatch.setattr(cluster_room, "LOOK_S", 0.1)
    monkeypatch.setattr(cluster_room, "NO_ROOM_S", 0.5)
    answered, there = set(), {"one": 2}
    never = decode.options(resources={"nobody has": 1})

    def start(unit, clip):
        if unit.unit_id in answered:  # what the actor is to be checked with
            there.clear()
        return tuple((decode if there else never).remote(str(folder), clip))

    limits = replace(LIMITS, actors=1, max_deaths_per_clip=1, max_deaths_per_worker=2)
    gone = replace(backend(folder), start_decode=start, room=lambda actors: there)
    finished = RayExecution(gone, limits, threading.Event()).run(units(6, clips=1))
    answered.add(next(finished).unit.unit_id)
    (folder / "deadly-machine").touch()
    with pytest.raises(ExecutionError, match="no machine that decodes is left"):
        answered.update(result.unit.unit_id for result in finished)
    assert not there


def test_a_run_ends_when_no_machine_can_hold_a_model_actor_for_long(folder, monkeypatch, caplog):
    monkeypatch.setattr(cluster_room, "LOOK_S", 0.1)
    monkeypatch.setattr(cluster_room, "NO_ROOM_S", 1.0)
    too_large = replace(
        backend(folder),
        start_actor=lambda: Actor.options(num_cpus=10_000).remote(str(folder)),
        no_actor_room=lambda: backends._no_actor_room(10_000, 0),
    )
    with pytest.raises(ExecutionError, match=r"no machine of the cluster can hold .*CPU cores: 10000,"):
        list(RayExecution(too_large, LIMITS, threading.Event()).run(units(1)))
    assert caplog.text.count("waiting 1 s for the cluster to grow") == 1


def test_one_actor_alone_is_not_waited_for_for_ever_either(folder, monkeypatch):
    for module in (cluster_room, backends):
        monkeypatch.setattr(module, "LOOK_S", 0.1)
    monkeypatch.setattr(cluster_room, "NO_ROOM_S", 0.5)
    actor = Actor.options(num_cpus=10_000).remote(str(folder))
    with pytest.raises(ExecutionError, match=r"no machine of the cluster can hold .*CPU cores: 10000,"):
        backends._wait_for_room(actor, lambda: backends._no_actor_room(10_000, 0))
    here = Actor.remote(str(folder))
    backends._wait_for_room(here, lambda: backends._no_actor_room(1, 0))


def test_an_actor_that_loads_for_long_is_waited_for(folder, monkeypatch, caplog):
    monkeypatch.setattr(cluster_room, "LOOK_S", 0.1)
    monkeypatch.setattr(cluster_room, "NO_ROOM_S", 0.2)
    (folder / "slow-loading").touch()
    slow = replace(backend(folder), no_actor_room=lambda: backends._no_actor_room(0, 0))
    given = units(1)
    check_answers(given, {r.unit.unit_id: r.outcomes for r in RayExecution(slow, LIMITS, threading.Event()).run(given)})
    assert "no machine" not in caplog.text


class TwoMachines:
    """What is started goes to one and the other in turn. A file `CLASS-on-NAME` breaks one."""

    def __init__(self, folder):
        self.folder, self.here, self.turn = folder, ["one", "two"], 0

    def backend(self):
        return replace(
            backend(self.folder),
            start_decode=self.start,
            start_decode_on=lambda machine, unit, clip: tuple(decode.remote(str(self.folder), clip, machine)),
            leave_out=self.leave_out,
            machines=lambda: {"one", "two"},
        )

    def start(self, unit, clip):
        self.turn += 1
        return tuple(decode.remote(str(self.folder), clip, self.here[self.turn % len(self.here)]))

    def leave_out(self, machines):
        self.here = [machine for machine in ("one", "two") if machine not in machines] or ["nowhere"]

    def run(self, given):
        execution = RayExecution(self.backend(), LIMITS, threading.Event())
        return {r.unit.unit_id: r.outcomes for r in execution.run(given)}, execution.statistics


def breaking(folder, given, *names, within_s=2):
    """The same units; these faults come in the middle of them, when both machines have decoded, or after `within_s`."""
    for number, unit in enumerate(given):
        if number == 4:
            latest = time.monotonic() + within_s
            while time.monotonic() < latest and not all((folder / f"decoded-on-{m}").exists() for m in ("one", "two")):
                time.sleep(0.01)
                yield None
            for name in names:
                (folder / name).touch()
        yield unit


@pytest.mark.parametrize("error_class", ["decode_failed", "storage"])
def test_a_machine_that_fails_on_what_worked_before_is_out(folder, error_class, monkeypatch):
    monkeypatch.setattr(failure_rules, "FIRST_PAUSE_S", 0.01)
    given = units(count=24, clips=1)
    faults = breaking(folder, given, f"{error_class}-on-one", within_s=60)  # on a busy machine the first take a while
    finished, statistics = TwoMachines(folder).run(faults)
    check_answers(given, finished)
    assert not any(isinstance(o, ClipFailure) for outcomes in finished.values() for o in outcomes)
    assert statistics.machines_out == {"one": "as asked"}


def test_a_files_clips_are_decoded_on_one_machine_until_that_is_out(folder, monkeypatch):
    monkeypatch.setattr(failure_rules, "FIRST_PAUSE_S", 0.01)
    machines, given, where = TwoMachines(folder), units(count=12, clips=2), {}

    def start_at(machine, is_helped, unit, clip):
        if not is_helped:
            where.setdefault(unit.unit_id, []).append(machine)
        return tuple(decode.remote(str(folder), clip, machine))

    backend = replace(machines.backend(), start_decode_at=start_at, slots=lambda actors: {"one": 2, "two": 2})
    execution = RayExecution(backend, LIMITS, threading.Event())
    results = execution.run(breaking(folder, given, "decode_failed-on-one"))
    finished = {result.unit.unit_id: result.outcomes for result in results}
    check_answers(given, finished)
    assert not any(isinstance(o, ClipFailure) for outcomes in finished.values() for o in outcomes)
    assert execution.statistics.machines_out == {"one": "as asked"}
    homes = {unit.unit_id: home_of(unit.media, ("one", "two")) for unit in given}
    assert all(set(machines) == {homes[unit_id]} for unit_id, machines in where.items())
    assert set(homes.values()) == {"one", "two"} == {machine for found in where.values() for machine in found}


def test_clips_leave_the_machine_whose_cores_an_actor_takes(folder):
    (folder / "actor-on-one").touch()
    machines, given = TwoMachines(folder), units(count=12, clips=2)
    never = decode.options(resources={"nobody has": 1})

    def start_at(machine, is_helped, unit, clip):
        return tuple((never if machine == "one" else decode).remote(str(folder), clip, machine))

    def slots(actors):
        return {"one": 0 if actors["one"] else 2, "two": 2}

    backend = replace(machines.backend(), start_decode_at=start_at, slots=slots)
    execution = RayExecution(backend, LIMITS, threading.Event())
    finished = {result.unit.unit_id: result.outcomes for result in execution.run(given)}
    check_answers(given, finished)
    assert not any(isinstance(o, ClipFailure) for outcomes in finished.values() for o in outcomes)


def test_a_machine_whose_cores_actors_took_is_not_waited_for_to_be_checked(folder, monkeypatch):
    monkeypatch.setattr(cluster_room, "LOOK_S", 0.1)
    (folder / "actor-on-one").touch()
    machines, given = TwoMachines(folder), units(count=12, clips=1)
    never = decode.options(resources={"nobody has": 1})

    def start(unit, clip):
        machines.here = ["one", "two"] if machines.turn < 6 else ["two"]  # then its cores are taken
        return machines.start(unit, clip)

    backend = replace(
        machines.backend(),
        start_decode=start,
        start_decode_on=lambda machine, unit, clip: tuple(never.remote(str(folder), clip, machine)),
        room=lambda actors: {"one": 0 if actors["one"] else 2, "two": 2},
    )
    results = RayExecution(backend, LIMITS, threading.Event()).run(breaking(folder, given, "decode_failed-on-one"))
    finished = {result.unit.unit_id: result.outcomes for result in results}
    check_answers(given, finished)
    assert not any(isinstance(o, ClipFailure) for outcomes in finished.values() for o in outcomes)


def test_where_no_machine_is_left_the_run_ends_and_writes_nothing_off(folder):
    given = units(count=16, clips=1)
    finished = []
    execution = RayExecution(TwoMachines(folder).backend(), LIMITS, threading.Event())
    with pytest.raises(ExecutionError, match=r"no machine can decode any more \(.*as asked.*run again"):
        finished.extend(execution.run(breaking(folder, given, "decode_failed-on-one", "decode_failed-on-two")))
    assert not any(isinstance(o, ClipFailure) for result in finished for o in result.outcomes)


def test_a_clip_begun_before_a_machine_broke_says_nothing_for_it():
    """It takes longer than those that failed on the same machine meanwhile."""
    first, slow, bad, worse, later = (ClipState(UnitState(u), u.clips[0], CLIP_BYTES) for u in units(5, clips=1))
    machines, failed = Machines(), ClipFailure(None, "decode", "decode_failed", "no such file: libavcodec")
    assert machines.decoded("one", first) == []
    slow.begun_s = time.monotonic()
    assert machines.failed("one", bad, failed)
    assert machines.decoded("one", slow) == []
    later.begun_s = time.monotonic()
    assert machines.failed("one", worse, failed)
    assert machines.decoded("one", later) == [(bad, failed)]
    assert machines.is_holding


def test_damaged_files_in_a_row_cost_no_machine(folder):
    """Also as an archive's first, and as its last."""
    given = units(count=16, clips=1)
    damaged = {unit.unit_id for unit in (*given[:4], *given[6:])}
    for unit in given:
        if unit.unit_id in damaged:
            (folder / f"decode_failed-{unit.clips[0].index}").write_text("99")
    finished, statistics = TwoMachines(folder).run(given)
    check_answers(given, finished)
    failed = {unit_id for unit_id, (outcome,) in finished.items() if isinstance(outcome, ClipFailure)}
    assert failed == damaged
    assert statistics.machines_out == {}


def test_a_stop_lets_units_in_flight_finish_and_takes_no_more(folder):
    stop = threading.Event()
    taken = []

    def endless():
        for number in range(10_000):
            taken.append(number)
            if number == 6:
                stop.set()
            yield rows.unit(rows.media(number), first=number, clips=1)

    finished, _ = run(folder, endless(), stop=stop)
    assert 1 <= len(finished) <= len(taken) < 40


def test_nothing_to_do_starts_no_actor(folder):
    finished, statistics = run(folder, [])
    assert finished == {}
    assert statistics.actors == []


def test_the_same_units_run_in_process():
    given = units(2)

    def decode_unit(unit):
        for clip in unit.clips:
            if clip.index == 11:
                yield ClipFailure(clip, "decode", "decode_failed", "as asked")
            else:
                yield DecodedClip(clip, np.full((4,), clip.index, np.uint8), None, 2.0, 1.0, 0.1)

    def answer(decoded, unit):
        return rows.result(decoded.clip, answer=str(int(decoded.frames[0])))

    results = execute_in_process(given, decode=decode_unit, answer=answer, read=answer, stop=threading.Event())
    finished = {r.unit.unit_id: r.outcomes for r in results}
    check_answers(given, finished)
    assert [type(o) is ClipFailure for o in finished[given[1].unit_id]] == [False, True, False, False]


def test_actors_come_when_clips_pile_up_and_go_when_they_have_nothing_to_do(ray_session, tmp_path):
    (tmp_path / "slow-model").touch()
    given, there = units(26, clips=1), []

    def source():
        yield from given[:12]
        for unit in given[12:]:
            # So slowly that two actors have nothing to do, however slow the machine is.
            began = time.monotonic()
            while time.monotonic() < began + (60 if there[-1:] == [3] else 0.4):
                yield None
            yield unit

    def watch(statistics):
        load = statistics.load
        there.append(load.actors_loading + load.actors_busy + load.actors_idle)

    limits = replace(LIMITS, actors=3, decode_tasks=3, bytes_in_flight=40 * CLIP_BYTES, actor_idle_s=0.6)
    execution = RayExecution(backend(tmp_path), limits, threading.Event(), watch=watch)
    check_answers(given, {r.unit.unit_id: r.outcomes for r in execution.run(source())})
    assert there[0] <= 1 < max(there) == 3
    assert there[-1] < 3
    assert len(execution.statistics.actors) == 3, "each says of itself what it was, also the ones that went early"


def test_the_loop_says_what_the_actors_waited_for(ray_session, tmp_path):
    @ray.remote(num_cpus=1, max_retries=0, num_returns=2)
    def decode_slowly(clip):
        """All but the first once the actor is there, which takes seconds on a busy machine."""
        deadline = time.monotonic() + 60
        while clip.index and not (tmp_path / "loaded").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        return ray.get(decode.remote(str(tmp_path), clip))

    def slow_source():
        for unit in units(6, clips=1):
            time.sleep(0.4)
            yield unit

    limits = replace(LIMITS, decode_tasks=1, actors=1)
    slow_decoding = replace(backend(tmp_path), start_decode=lambda unit, clip: tuple(decode_slowly.remote(clip)))
    for given, start, named in [(units(2), slow_decoding, "decode"), (slow_source(), backend(tmp_path), "planning")]:
        execution = RayExecution(start, limits, threading.Event())
        assert list(execution.run(given))
        assert execution.statistics.actor_time.bottleneck == named
        assert 0 < execution.statistics.actor_time.busy_share < 0.9
        idle_s = sum(execution.statistics.actor_time.idle_s.values())
        assert idle_s < execution.statistics.actor_time.loaded_s
        # While the source itself is waited for, the loop may never look at a moment when an actor is idle.
        assert idle_s > 0 or named == "planning"
