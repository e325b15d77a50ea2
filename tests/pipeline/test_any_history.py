"""Whatever happens to an archive, after one completed run the tables are those of a fresh run over what is there now,
and nothing was asked twice."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.job import load_job
from pipeline.execution import backends
from pipeline.runs.maintenance import forget_media
from pipeline.runs.run import run_job
from tests.support.small_jobs import Silent, select
from tests.support.stub_runs import QUESTIONS, stub_runs, video

ROWS = "SELECT media_key, content_id, start_s, question_id, question, answer FROM answers ORDER BY ALL"
STEPS = ("touch", "rename", "copy", "delete", "restore", "change", "exclude", "move", "forget", "run", "kill")


class History:
    """One archive and its job, as people treat them."""

    def __init__(self, folder):
        self.folder, self.away = folder, folder / "away"
        self.archive = folder / "archive"
        self.away.mkdir()
        self.excluded, self.forgotten, self.moves = False, set(), 0
        (folder / "questions.yaml").write_text(QUESTIONS)
        for number in range(4):
            video(self.archive / f"{number}.mp4", f"video {number}", clips=1 + number % 2)

    def job(self, output="results"):
        exclude = "['1*']" if self.excluded else "[]"
        path = self.folder / f"{output}.yaml"
        path.write_text(
            f"name: test\narchive: {{uri: {self.archive.name}, exclude: {exclude}}}\noutput: {output}\n"
            "question_set: questions.yaml\nclips: {length_s: 10}\nmodel: {device: cpu}\n"
            "execution: {ray_address: in-process, clips_per_unit: 1}\naudit: {share: 0}\n"
        )
        return path

    def run(self, output="results"):
        return run_job(load_job(self.job(output)), Silent(), threading.Event(), allow_shrink=True)

    def step(self, name, number):
        there = sorted(self.archive.iterdir())
        path = there[number % len(there)] if there else None
        if name == "run":
            self.run_if_possible()
        elif name == "kill":
            self.killed(after=number)
        elif name == "exclude":
            self.excluded = not self.excluded
        elif name == "move":
            self.moves += 1
            self.archive = self.archive.rename(self.folder / f"archive {self.moves}")
        elif name == "restore":
            for gone in sorted(self.away.iterdir())[:1]:
                gone.rename(self.archive / gone.name)
        elif path is None:
            return
        elif name == "touch":
            os.utime(path)
        elif name == "rename":
            path.rename(path.with_name(f"renamed {number} {path.name[-8:]}"))
        elif name == "copy":
            shutil.copy(path, path.with_name(f"copy {number}.mp4"))
        elif name == "delete":
            path.rename(self.away / path.name)
        elif name == "change":
            video(path, f"changed {number}")
        elif name == "forget" and self.run_if_possible():
            counted = select(self.job(), "SELECT DISTINCT media_key FROM media")
            if (path.name,) in counted:
                self.forgotten.add(path.read_text())
                forget_media(load_job(self.job()), path.name)

    def run_if_possible(self):
        if any(not (self.excluded and path.name.startswith("1")) for path in self.archive.iterdir()):
            self.run()
            return True
        return False

    def killed(self, after):
        """A run that ends in the middle, as from an error that nobody foresaw."""
        real, left = backends.decode_one, iter(range(after))

        def dying(*given):
            if next(left, None) is None:
                raise MemoryError
            return real(*given)

        backends.decode_one = dying
        try:
            self.run_if_possible()
        except MemoryError:
            pass
        finally:
            backends.decode_one = real


@pytest.mark.timeout(300)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), min_size=3, max_size=9))
@settings(max_examples=6, deadline=None, database=None)
def test_after_any_history_the_tables_are_those_of_a_fresh_run(steps):
    with tempfile.TemporaryDirectory() as name, stub_runs() as asked:
        history = History(Path(name))
        for step, number in steps:
            history.step(step, number)
        if not history.run_if_possible():
            return
        times = dict(asked)
        assert {key: count for key, count in times.items() if count != 1} == {}
        found = select(history.job(), ROWS)
        # A fresh run sees the archive without what was forgotten.
        for path in history.archive.iterdir():
            if path.read_text() in history.forgotten:
                path.unlink()
        if not history.run_if_possible():
            assert found == []
            return
        history.run("fresh")
        assert found == select(history.job("fresh"), ROWS)
