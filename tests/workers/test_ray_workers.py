"""Looking and decoding through a Ray that other files share: a Ray of its own takes 8 CPU s to start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import ray

from tests.workers.test_workers import EARLY, SETTINGS, plain, sha256_of, unit_of  # noqa: F401 - `plain` is a fixture
from workers.media.decode import Source
from workers.media.early import EarlyClip
from workers.ray_workers import DecodeStarter, LookStarter
from workers.records import Clip


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_session")
def test_a_clip_decoded_early_becomes_one_of_a_unit(plain):  # noqa: F811
    unit, source = unit_of(plain), Source()
    (machine,) = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    looked = LookStarter(source, 60).look(machine, unit.media, EARLY)
    assert (looked.content_id, looked.found, looked.early) == (sha256_of(plain), unit.info, ())  # not from a store
    held = []
    start = DecodeStarter(SETTINGS, source, early=lambda *_: held.pop() if held else None)

    def early(decoded):
        return [EarlyClip(unit.info, 0.0, 2.0, 1, decoded)]

    report, later = ray.get(list(start(unit, unit.clips[0])))
    held = early(ray.put(replace(later, clip=Clip("", 0, 0.0, 2.0), notes=("decoded early",))))
    report, decoded = ray.get(list(start(unit, unit.clips[0])))
    assert (report.failure, report.nbytes, report.bytes_fetched) == (None, decoded.nbytes, 0)
    assert (decoded.clip, decoded.notes) == (unit.clips[0], ("decoded early",))
    assert np.array_equal(decoded.frames, later.frames)
    _, again = ray.get(list(start(unit, unit.clips[0])))  # it is given out once
    assert (again.clip, again.notes) == (unit.clips[0], later.notes)
