"""Scene cuts of real files, and clips that begin at them."""

from __future__ import annotations

import threading

import pytest

from pipeline.config.job import StorageConfig, make_job
from pipeline.runs.run import run_job
from pipeline.tables.query import open_results, query
from tests.support.media_files import AAC, X264, clip_file, make, sound
from tests.support.small_jobs import Silent
from workers.media.probing import probe
from workers.media.scenes import find_scene_cuts


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Red for 3 s, blue for 2 s, white for 4 s, in a container that starts at 1.4 s."""
    path = tmp_path_factory.mktemp("scenes") / "scenes.ts"
    colours = [("red", 3), ("blue", 2), ("white", 4)]
    inputs = [a for c, s in colours for a in ("-f", "lavfi", "-i", f"color=c={c}:s=160x120:r=25:d={s}")]
    join = "[0:v][1:v][2:v]concat=n=3[v]"
    make(*inputs, *sound(9), "-filter_complex", join, "-map", "[v]", "-map", "3:a", *X264, *AAC, path)
    return path


def test_cuts_are_found_where_they_are(scenes):
    info = probe(scenes)
    assert info.start_s > 1
    assert find_scene_cuts(scenes, info, 0.3) == pytest.approx((3, 5), abs=0.21)


def test_a_steady_picture_and_mere_sound_have_none(tmp_path):
    steady = clip_file(tmp_path / "steady.mp4", 3)
    assert find_scene_cuts(steady, probe(steady), 0.3) == ()
    make(*sound(2), tmp_path / "sound.wav")
    assert find_scene_cuts(tmp_path / "sound.wav", probe(tmp_path / "sound.wav"), 0.3) == ()


def test_clips_begin_at_scene_cuts_and_the_cuts_are_remembered(scenes, tmp_path):
    job = make_job(
        {
            "name": "scenes",
            "archive": {"uri": str(scenes.parent)},
            "output": str(tmp_path / "results"),
            "question_set": "lecture",
            "clips": {"cut": "scene", "max_length_s": 10, "fps": 1},
            "pruning": {"retained_ratio": 0.4},
            "execution": {"ray_address": "in-process"},
        }
    )
    run_job(job, Silent(), threading.Event())
    with open_results(job.output, StorageConfig()) as connection:
        spans = list(query(connection, "SELECT start_s, end_s FROM clips ORDER BY 1").rows)
    assert spans == [pytest.approx(span, abs=0.25) for span in ((0, 3), (3, 5), (5, 9))]
    assert run_job(job, Silent(), threading.Event()).did_nothing
