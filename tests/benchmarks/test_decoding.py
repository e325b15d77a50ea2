"""Ways of decoding are compared on the same clips, and a way that shows something else ends the comparison."""

from __future__ import annotations

import pytest

from benchmarks.speed import decoding
from workers.media import extraction
from workers.records import DecodeSettings


def test_ways_are_compared_by_cpu_seconds_on_the_same_clips(monkeypatch):
    monkeypatch.setattr(extraction, "LEAST_PIXELS", 0)  # of files so small nothing is left out otherwise
    spared = []
    monkeypatch.setattr(extraction, "left_out", lambda *given: spared.append(given))
    both = list(decoding.rows(["mpeg2"], "128x72", 0.5, 0.5, 1))
    assert [(row.way, row.clip_s) for row in both] == [("whole", 0.5), ("needed", 0.5)]
    assert both[0].of_whole == 1
    assert all(row.cpu_s_per_hour > 0 for row in both)
    assert len(spared) == 1
    monkeypatch.setattr(decoding, "ways", lambda info: [("whole", DecodeSettings()), ("needed", DecodeSettings(fps=4))])
    with pytest.raises(ValueError, match=r"one\.ts: the clip at 0 s is another one by way needed"):
        list(decoding.rows(["mpeg2"], "128x72", 0.5, 0.5, 1))
