"""How far fetching runs ahead of decoding."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from pipeline.archive.probing import Probed
from pipeline.planning.plan import MediaPlan
from pipeline.runs.fetched_ahead import FetchedAhead
from tests.support import rows
from workers.records import Version

FILES = [replace(rows.media(), media_id=f"{n:032x}", size_bytes=40) for n in range(6)]


@pytest.fixture
def planned():
    """(account, what is planned so far, the thread that plans): room for two files of 40 bytes, one file a batch."""
    account, so_far = FetchedAhead(100), []
    probe = account.probing(lambda items: [(media, Probed(None)) for media in items])
    batches = (probe([media]) for media in FILES)
    plans = account.planned(MediaPlan(media, None, Version("v"), ()) for found in batches for media, _ in found)
    thread = threading.Thread(target=lambda: so_far.extend(plan.media for plan in plans), daemon=True)
    yield account, so_far, thread
    account.close()
    thread.join(5)
    assert not thread.is_alive()
    assert so_far == FILES


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
