"""What was noticed about files is summed wherever a job is shown, and each case can be found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.config.job import load_job
from tests.support.media_files import clip_file
from tests.support.media_oracle import joined
from tests.support.small_jobs import cli, run, select
from workers.records import REPEATS

FILES = Path(__file__).parents[1] / "data" / "media"


@pytest.fixture
def noticing(job, tmp_path):
    """A job over files of which something is to be said."""
    archive = Path(load_job(job).archive.uri)
    for given in archive.iterdir():
        given.unlink()
    for name in ("07_disc_back.ts", "26_commentary_first.mkv", "74_audio_gap_5_7.mkv"):
        shutil.copy(FILES / name, archive)
    once = clip_file(tmp_path / "once.ts", 3)
    joined(archive / "twice.ts", once, once)
    return job


def test_what_is_noticed_is_summed_and_found(noticing, tmp_path):
    wide = {"clips.length_s": 12, "clips.max_pixels": 10_000}
    run(noticing, **wide)
    options = [
        word for name, value in wide.items() for word in (f"--{name.replace('.', '-').replace('_', '-')}", value)
    ]
    found = dict(select(noticing, "SELECT kind, count(*) FROM noticed GROUP BY kind"))
    assert found == {"silent_s": found["silent_s"], "segments": 2, "unused_tracks": 1, "repeated": 1}
    most = select(noticing, "SELECT media_key, start_s, amount FROM noticed WHERE kind = 'silent_s' AND amount > 1.5")
    assert ("74_audio_gap_5_7.mkv", 0, pytest.approx(2, abs=0.1)) in most
    said = [
        notes for (notes,) in select(noticing, "SELECT notes FROM clips WHERE media_key = 'twice.ts' ORDER BY start_s")
    ]
    assert [REPEATS in notes for notes in said] == [False, True]
    assert cli("status", noticing, "--json", tmp_path / "status.json").exit_code == 0
    again = cli("index", noticing, *options, "--json", tmp_path / "run.json")
    assert again.exit_code == 0, again.output
    assert "4 in 2 files of several recordings" in again.output
    for name in ("status.json", "run.json"):
        told = {one["kind"]: one["cases"] for one in json.loads((tmp_path / name).read_text())["noticed"]}
        assert told == found
    assert cli("report", noticing, "-o", tmp_path / "report.html").exit_code == 0
    page = (tmp_path / "report.html").read_text()
    assert "What was noticed about the files" in page
    assert "1 in 1 files with tracks that are not decoded" in page
    assert "clips that repeat the one before" in page
