"""Clips decoded while their file was fetched: how many may be, and which of them are given out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.archive.decoded_early import CLIPS, SHARE, DecodedEarly
from pipeline.config.job import make_job
from tests.support import rows
from workers.media.clip_reader import most_decoded_bytes
from workers.media.early import EarlyClip
from workers.records import Clip, DecodeSettings, MediaInfo

FILES = [replace(rows.media(n), uri=f"s3://media/{n}.mp4", size_bytes=1 << 30) for n in range(3)]
INFO = MediaInfo("mp4", 100.0, video_codec="h264", width=320, height=240, is_checked=True)
CLIP = Clip("id", 0, 0.0, 30.0)
A_FILE = CLIPS * most_decoded_bytes(30.0 + 1.0, DecodeSettings())


def account(tmp_path, most=2 * A_FILE, **given):
    job = {"name": "a", "archive": {"uri": "s3://media/a"}, "output": str(tmp_path), "question_set": "toy-world"}
    clips = {"clips": {"min_length_s": 1}, **given}
    return DecodedEarly(make_job({**job, "execution": {"bytes_in_flight": SHARE * most}, **clips}))


def early(start_s=0.0, end_s=30.0, info=INFO):
    return EarlyClip(info, start_s, end_s, 1_000, f"decoded {start_s:g}")


def test_a_clip_is_given_out_once_for_its_version_span_and_streams(tmp_path):
    held, media = account(tmp_path), FILES[0]
    wish = held.wish(media)
    assert (wish.length_s, wish.step_s, wish.shortest_s, wish.clips) == (30.0, 30.0, 1.0, CLIPS)
    held.came(media, [early(), early(30.0, 60.0)])
    assert held.nbytes == 2_000
    assert held.take(replace(media, etag="another"), INFO, CLIP) is None
    assert held.take(media, INFO, replace(CLIP, end_s=29.0)) is None
    assert held.take(media, replace(INFO, audio_codec="aac"), CLIP) is None
    # What is known only when all was read says nothing about these pictures.
    assert held.take(media, replace(INFO, video_end_s=99.0, is_checked=False), CLIP).decoded == "decoded 0"
    assert held.take(media, INFO, CLIP) is None
    assert held.nbytes == 1_000
    held.drop(media.media_id)
    assert (held.nbytes, held.decoded, held.unused) == (0, 2, 1)
    assert [note.split(" clips")[0] for note in held.notes()] == ["1 of 2"]


def test_room_is_kept_before_anything_is_decoded_and_given_back(tmp_path):
    held = account(tmp_path)
    assert [held.wish(media) is not None for media in FILES] == [True, True, False]
    assert held.nbytes == 2 * A_FILE
    held.came(FILES[0])
    assert held.wish(FILES[2]) is not None
    held.close()
    assert held.nbytes == 0
    held.came(FILES[1], [early()])  # too late: nobody asks for it any more
    assert (held.nbytes, held.take(FILES[1], INFO, CLIP)) == (0, None)
    assert not list(held.notes())


@pytest.mark.parametrize(
    "given",
    [{"clips": {"cut": "scene"}}, {"archive": {"uri": "/archive"}}, {"execution": {"bytes_in_flight": 1 << 20}}],
)
def test_nothing_is_decoded_early_where_it_cannot_be(tmp_path, given):
    assert account(tmp_path, **given).wish(FILES[0]) is None


def test_nothing_is_decoded_early_of_small_files_or_while_clips_wait_for_a_core(tmp_path):
    held = account(tmp_path)
    assert held.wish(replace(FILES[0], size_bytes=1 << 20)) is None
    held.tell(queued=3)
    assert held.wish(FILES[0]) is None
    held.tell(queued=0)
    assert held.wish(FILES[0]) is not None
