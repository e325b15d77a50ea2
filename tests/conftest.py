"""What all tests share: settings for a busy machine, and fixtures that are dear: one Ray for the whole session."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import settings

from tests.media_files import clip_file
from tests.small_jobs import QUESTIONS

# A busy machine may take a second for what takes a millisecond; tests that bound time do so themselves.
settings.register_profile("omnidrop", deadline=None)
settings.load_profile("omnidrop")

# Two cores are shared by Ray's workers, ffmpeg and the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory):
    """A Ray of our own, in a folder of our own. Starting one takes 6 s and 1 GB."""
    import ray

    # A short path: Ray puts sockets below it, and their names are limited to 107 bytes.
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Two videos of different length, made once."""
    folder = tmp_path_factory.mktemp("videos")
    clip_file(folder / "short.mp4", 3, size="64x48", rate=10)
    clip_file(folder / "long.mkv", 7, size="64x48", rate=10)
    return folder


@pytest.fixture
def job(tmp_path, videos):
    """A job file over an archive of the two videos and one file that is no video."""
    shutil.copytree(videos, tmp_path / "archive")
    (tmp_path / "archive" / "notes.mp4").write_text("not a video at all")
    (tmp_path / "questions.yaml").write_text(QUESTIONS)
    (tmp_path / "job.yaml").write_text(
        "name: test\narchive: {uri: archive}\noutput: results\nquestion_set: questions.yaml\n"
        "clips: {length_s: 3, fps: 1}\npruning: {retained_ratio: 0.4}\n"
        "execution: {ray_address: in-process, clips_per_unit: 2}\n"
    )
    return tmp_path / "job.yaml"
