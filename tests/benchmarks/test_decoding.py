"""Ways of decoding are compared on the same clips, and a way that shows something else ends the comparison."""

from __future__ import annotations

import pytest

from benchmarks.speed import decoding
from workers.media import extraction
from workers.media.probing import ProbePool
from workers.records import DecodeSettings


def test_ways_are_compared_by_cpu_seconds_on_the_same_clips(tmp_path, monkeypatch):
    container, encoder = decoding.CODECS["mpeg2"]
    path = tmp_path / f"one.{container}"
    decoding.make(path, encoder, "128x72", 0.5)
    with ProbePool(1) as pool:
        ((_, info),) = pool.probe_many([(None, str(path))])
    monkeypatch.setattr(extraction, "LEAST_PIXELS", 0)  # of files so small nothing is left out otherwise
    looked_into = []
    monkeypatch.setattr(extraction, "left_out", lambda *given: looked_into.append(given))
    spent = decoding.measure(path, info, 0.5, 1)
    assert list(spent) == ["whole", "needed"]
    assert all(cpu_s > 0 for cpu_s in spent.values())
    assert len(looked_into) == 1
    monkeypatch.setattr(decoding, "ways", lambda info: [("whole", DecodeSettings()), ("needed", DecodeSettings(fps=9))])
    with pytest.raises(ValueError, match=r"one\.ts: the clip at 0 s is another one by way needed"):
        decoding.measure(path, info, 0.5, 1)
