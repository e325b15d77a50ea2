"""The pages by trade: each one's job runs on files made here, and ends with what that trade opens."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import av
import opentimelineio as otio
import pyarrow.parquet as pq
import pysubs2
import pytest

from tests.support.media_files import clip_file, make
from tests.support.small_jobs import cli

PAGES = Path(__file__).parents[2] / "docs" / "trades"


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two seconds at 25 frames a second that begin at ten o'clock."""
    folder = tmp_path_factory.mktemp("recording")
    clip_file(folder / "cut.mp4", 2, size="64x48", rate=25)
    make("-i", folder / "cut.mp4", "-c", "copy", "-timecode", "10:00:00:00", folder / "a.mov")
    return folder / "a.mov"


@pytest.fixture
def done(recording, tmp_path, monkeypatch):
    """A function that runs a page's `console` commands over its files, and returns the folder."""

    def run_page(name):
        text = (PAGES / f"{name}.md").read_text()
        for file, content in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            (tmp_path / file).write_text(content)
        with (tmp_path / "job.yaml").open("a") as job:
            job.write("execution: {ray_address: in-process}\n")
        (tmp_path / "archive").mkdir()
        shutil.copy(recording, tmp_path / "archive")
        monkeypatch.chdir(tmp_path)
        (commands,) = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in commands.splitlines():
            result = cli(*shlex.split(line)[1:])
            assert result.exit_code == 0, (line, result.output)
        return tmp_path

    return run_page


def test_broadcast_ends_in_the_editor(done):
    folder = done("broadcast")
    assert "10:00:00:00 10:00:00:01" in (folder / "markers" / "a.edl").read_text()
    (clip,) = otio.adapters.read_from_file(str(folder / "timelines" / "a.otio")).find_clips()
    assert "place" in {marker.metadata["omnidrop"]["question_id"] for marker in clip.markers}
    assert clip.markers[0].marked_range.start_time.to_timecode(25, False) == "10:00:00:00"


def test_courts_end_in_a_spreadsheet(done):
    rows = list(csv.DictReader((done("courts") / "moments.csv").open(newline="")))
    assert {row["in"] for row in rows if row["question_id"] == "light"} == {"10:00:00:00"}


def test_lectures_end_in_the_player(done):
    folder = done("lectures")
    assert len(pysubs2.load(str(folder / "subtitles" / "a.vtt"))) >= 1
    make("-i", "archive/a.mov", "-i", "chapters/a.ffmeta", "-map", "0:v", "-map_chapters", 1, "-c", "copy", "b.mkv")
    with av.open(str(folder / "b.mkv")) as video:
        assert [chapter["metadata"]["title"].partition(":")[0] for chapter in video.chapters()] == ["shown"]


def test_labs_end_in_a_labelling_tool_and_a_table(done):
    folder = done("labs")
    (task,) = json.loads((folder / "tasks.json").read_text())
    assert task["predictions"][0]["result"][-1]["value"]["ranges"][0]["end"] == 50
    rows = pq.read_table(folder / "behaviour.parquet").to_pylist()
    assert {row["question_id"]: row["rule"] for row in rows} == {"moving": "total_s", "posture": "longest"}
