"""What all tests share: settings for a busy machine, and fixtures that are dear: one Ray for the whole session."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

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
