"""How far fetching runs ahead of decoding, and whether there is room for what it keeps."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from pipeline.archive.probing import Probed
from pipeline.checks import validate
from pipeline.config.job import JobError, make_job
from pipeline.planning.media_plan import MediaPlan
from pipeline.runs.fetched_ahead import FetchedAhead
from tests.support import rows
from workers.records import Version

FILES = [replace(rows.media(), media_id=f"{n:032x}", size_bytes=40) for n in range(6)]


@pytest.fixture
def planned():
    """(account, what is planned so far, the thread that plans): room for two files of 40 bytes, one file a batch."""
    left = []
    account, so_far = FetchedAhead(lambda: 100, left.append), []
    probe = account.probing(lambda items: [(media, Probed(None)) for media in items])
    batches = (probe([media]) for media in FILES)
    plans = account.planned(MediaPlan(media, None, Version("v"), ()) for found in batches for media, _ in found)
    thread = threading.Thread(target=lambda: so_far.extend(plan.media for plan in plans), daemon=True)
    yield account, so_far, thread
    account.close()
    thread.join(5)
    assert not thread.is_alive()
    assert so_far == FILES
    assert set(left) <= {media.media_id for media in FILES}


def test_what_is_planned_never_or_done_is_told_once_nothing_waits_for_it():
    left = []
    account = FetchedAhead(lambda: 1000, left.append)
    probe = account.probing(lambda items: [(media, Probed(None)) for media in items])
    plans = account.planned(
        MediaPlan(media, None, Version("v"), ()) for media, _ in probe(FILES[:2]) if media is FILES[0]
    )
    assert [plan.media for plan in plans] == FILES[:1]
    assert not left
    list(probe(FILES[2:3]))
    assert left == [FILES[1].media_id]  # passed over
    account.taken(FILES[0].media_id, units=1)
    account.finished(FILES[0].media_id)
    assert left == [FILES[1].media_id, FILES[0].media_id]


def waits(so_far, thread, many):
    thread.join(0.3)
    return len(so_far) == many and thread.is_alive()


def test_files_are_fetched_while_those_before_have_room_and_as_they_are_done(planned):
    account, so_far, thread = planned
    thread.start()
    assert waits(so_far, thread, 2)
    account.taken(FILES[0].media_id, units=2)
    account.finished(FILES[0].media_id)
    assert waits(so_far, thread, 2)
    account.finished(FILES[0].media_id)
    assert waits(so_far, thread, 3)
    account.taken(FILES[1].media_id, units=0)  # nothing is left to ask of it
    assert waits(so_far, thread, 4)


def test_nobody_waits_when_nothing_more_is_handed_out(planned):
    account, so_far, thread = planned
    thread.start()
    assert waits(so_far, thread, 2)
    account.close()


def test_validate_says_where_the_disk_is_too_small_for_what_is_kept(tmp_path):
    given = {
        "name": "a",
        "archive": {"uri": "s3://media/a"},
        "output": str(tmp_path / "out"),
        "question_set": "toy-world",
    }

    def checked(**execution):
        return validate._cache(make_job(given | {"execution": execution}), validate._Found(bytes=1 << 62, larger=3))

    folder = tmp_path / "cache" / "of-omnidrop"
    assert "3 files are larger" in checked(cache_dir=str(folder), cache_bytes=1 << 20)
    assert not folder.parent.exists()
    with pytest.raises(validate.CheckError, match=r"GiB free, .* lower execution.cache_bytes, .* execution.cache_dir"):
        checked(cache_dir=str(folder), cache_bytes=1 << 60)
    with pytest.raises(JobError, match="cache/of-omnidrop' is not an absolute path"):
        checked(cache_dir="cache/of-omnidrop")


def test_validate_finds_an_index_whose_folder_is_missing(tmp_path):
    output = tmp_path / "results"
    assert validate._sqlite_place(str(output / "index.sqlite"), str(output)) == "will be made"
    with pytest.raises(validate.CheckError, match=f"the folder {tmp_path}/none does not exist; make it"):
        validate._sqlite_place(f"{tmp_path}/none/index.sqlite", str(output))
