"""Whatever happens to an archive, after one completed run the tables are those of a fresh run over what is there now,
and nothing was asked twice."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
import s3fs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.config.job import load_job
from pipeline.execution import in_process
from pipeline.runs.feed import Choices
from pipeline.runs.maintenance import forget_media
from pipeline.runs.run import run_job
from pipeline.tables.query import open_results, query
from tests.support.s3_server import s3_server
from tests.support.small_jobs import Silent
from tests.support.stub_runs import QUESTIONS, stub_runs, video

ROWS = "SELECT media_key, content_id, start_s, question_id, question, answer FROM answers ORDER BY ALL"
STEPS = ("touch", "rename", "copy", "delete", "restore", "change", "exclude", "move", "forget", "run", "kill")
EXAMPLES = int(os.environ.get("OMNIDROP_HISTORIES", "4"))
"""Histories with everything on this machine; a quarter as many with buckets and PostgreSQL."""


class Buckets:
    """Where archive and results of a history lie in S3, and its index in a database that all histories share."""

    def __init__(self, address, index_url):
        self.address, self.index_url = address, index_url
        self.store = s3fs.S3FileSystem(endpoint_url=address, skip_instance_cache=True)

    def settings(self, archive, output):
        return {
            "archive.uri": f"s3://media/{archive}",
            "archive.endpoint_url": self.address,
            "output": f"s3://results/{output}",
            "storage.endpoint_url": self.address,
            "index_url": self.index_url,
        }

    def mirror(self, folder, name):
        """The bucket holds what the folder holds; what has other times was uploaded again."""
        there = {path.name: path for path in folder.iterdir()}
        self.store.invalidate_cache()
        for key in self.store.find(f"media/{name}"):
            if key.rpartition("/")[2] not in there:
                self.store.rm_file(key)
        for path in there.values():
            self.store.put_file(str(path), f"media/{name}/{path.name}")


class History:
    """One archive and its job, as people treat them."""

    def __init__(self, folder, buckets=None):
        self.folder, self.away, self.buckets = folder, folder / "away", buckets
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
        if self.buckets is None:
            return load_job(path)
        place = f"{self.folder.name}/{self.archive.name}"
        return load_job(path, self.buckets.settings(place, f"{self.folder.name}/{output}"))

    def run(self, output="results"):
        if self.buckets is not None:
            self.buckets.mirror(self.archive, f"{self.folder.name}/{self.archive.name}")
        return run_job(self.job(output), Silent(), threading.Event(), choices=Choices(allow_shrink=True))

    def rows(self, sql=ROWS, output="results"):
        job = self.job(output)
        with open_results(job.output, job.storage) as connection:
            return list(query(connection, sql).rows)

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
            shutil.copy(path, path.with_name(f"copy {number} of {path.name}"))
        elif name == "delete":
            path.rename(self.away / path.name)
        elif name == "change":
            video(path, f"changed {number}")
        elif name == "forget" and self.run_if_possible() and self.counts(path.name):
            self.forgotten.add(path.read_text())
            forget_media(self.job(), path.name)

    def counts(self, key):
        return (key,) in self.rows("SELECT DISTINCT media_key FROM media")

    def run_if_possible(self):
        if any(not (self.excluded and path.name.startswith("1")) for path in self.archive.iterdir()):
            self.run()
            return True
        return False

    def killed(self, after):
        """A run that ends in the middle, as from an error that nobody foresaw."""
        real, left = in_process.decode_one, iter(range(after))

        def dying(*given):
            if next(left, None) is None:
                raise MemoryError
            return real(*given)

        in_process.decode_one = dying
        try:
            self.run_if_possible()
        except MemoryError:
            pass
        finally:
            in_process.decode_one = real


HISTORIES = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), min_size=3, max_size=9)
# Shrinking would take longer than reading nine steps does.
AS_FOUND = {"deadline": None, "database": None, "phases": (Phase.explicit, Phase.generate)}


@pytest.mark.timeout(300 + 10 * EXAMPLES)
@given(HISTORIES)
@settings(max_examples=EXAMPLES, **AS_FOUND)
def test_after_any_history_the_tables_are_those_of_a_fresh_run(steps):
    live_through(steps)


@pytest.fixture(scope="module")
def buckets(postgres):
    with s3_server("media", "results") as address:
        yield Buckets(address, postgres)


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(300 + 10 * EXAMPLES)
@given(steps=HISTORIES)
@settings(max_examples=max(1, EXAMPLES // 4), suppress_health_check=[HealthCheck.function_scoped_fixture], **AS_FOUND)
def test_the_same_in_buckets_with_an_index_that_others_share(buckets, steps):
    live_through(steps, buckets)


def live_through(steps, buckets=None):
    with tempfile.TemporaryDirectory() as name, stub_runs() as asked:
        history = History(Path(name), buckets)
        for step, number in steps:
            history.step(step, number)
        if not history.run_if_possible():
            return
        times = dict(asked)
        assert {key: count for key, count in times.items() if count != 1} == {}
        found = history.rows()
        # A fresh run sees the archive without what was forgotten.
        for path in history.archive.iterdir():
            if path.read_text() in history.forgotten:
                path.unlink()
        if not history.run_if_possible():
            assert found == []
            return
        history.run("fresh")
        assert found == history.rows(output="fresh")
