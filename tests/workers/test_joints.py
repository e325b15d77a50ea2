"""Where another recording begins in a file, told from the container's structure alone."""

from __future__ import annotations

import io

import pytest

from workers.media._bytes import Window
from workers.media._joints import joints
from workers.media._structure import another_kind

W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
WHOLE = {
    "aiff": b"FORM" + (20).to_bytes(4, "big") + b"AIFF" + bytes(16),
    "au": b".snd" + (24).to_bytes(4, "big") + (30).to_bytes(4, "big") + bytes(12 + 30),
    "caf": b"caff\0\1\0\0desc" + (32).to_bytes(8, "big") + bytes(32) + b"data" + (30).to_bytes(8, "big") + bytes(30),
    "w64": W64 + (64).to_bytes(8, "little") + bytes(40),
    "wav": b"RIFF" + (30).to_bytes(4, "little") + b"WAVE" + bytes(26),
    "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(40),
    "nut": b"nut/multimedia container\0" + bytes(40),
    "ivf": b"DKIF\0\0\x20\0VP80" + bytes(40),
    "rm": b".RMF\0\0\0\x12\0\0" + bytes(40),
    "flac": b"fLaC\0\0\0\x22" + bytes(40),
    "amr": b"#!AMR\n" + bytes(40),
}


@pytest.mark.parametrize("container", sorted(WHOLE))
def test_each_recording_begins_where_the_one_before_ends(container):
    one = WHOLE[container]
    for count in (1, 2, 3):
        content = one * count
        assert joints(io.BytesIO(content), len(content), container) == [n * len(one) for n in range(1, count)]


@pytest.mark.parametrize("container", sorted(WHOLE))
def test_noise_after_a_recording_is_not_another(container):
    content = WHOLE[container] + bytes(range(256)) * 4
    assert joints(io.BytesIO(content), len(content), container) == []


def test_aac_is_another_recording_where_its_rate_changes():
    def frame(rate: int) -> bytes:
        length = 40
        return bytes((0xFF, 0xF1, 0x40 | rate << 2, length >> 11, length >> 3 & 0xFF, (length & 7) << 5, 0)) + bytes(33)

    tag = b"ID3\4\0\0" + bytes((0, 0, 0, 20)) + bytes(20)
    content = tag + frame(4) * 3 + tag + frame(4) + frame(3) * 2 + frame(4)
    first = 2 * len(tag) + 4 * 40
    assert joints(io.BytesIO(content), len(content), "aac") == [first, first + 80]


BEGINNINGS = {
    "mp4": b"\0\0\0\x18ftypisom",
    "matroska": b"\x1a\x45\xdf\xa3\xa3\x42\x86\x81\1\x42\x82\x84webm",
    "wav": b"RIFF\1\2\3\4WAVEfmt ",
    "avi": b"RIFF\1\2\3\4AVI LIST",
    "ogg": b"OggS\0\2" + bytes(8),
    "flac": WHOLE["flac"],
    "flv": b"FLV\1\5\0\0\0\x09\0\0\0\0",
    "asf": WHOLE["asf"],
    "aiff": b"FORM\1\2\3\4AIFC",
    "caf": WHOLE["caf"],
    "mxf": bytes.fromhex("060e2b34020501010d0102010102"),
    "mpegts": (b"\x47\x40\0\x10" + bytes(184)) * 6,
    "mpeg": b"\0\0\1\xba\x44" + bytes(9) + b"\0\0\1\xbb",
    "mp3": b"ID3\4\0\0\0\0\0\x0bTSSE\0\0\0\1\0\0\0\xff\xfb",
}


@pytest.mark.parametrize("kind", sorted(BEGINNINGS))
def test_a_file_of_another_kind_is_found_wherever_it_begins(kind):
    for before in (40, (1 << 15) - 3, 1 << 15, 100_000):
        content = bytes(range(1, 251)) * (before // 250 + 1)
        content = content[:before] + BEGINNINGS[kind] + bytes(2_000)
        file = sized(content)
        assert another_kind(Window(file), len(content), "amr") == before
        assert another_kind(Window(file), len(content), kind) is None


def test_a_tag_before_more_of_the_same_is_no_other_kind():
    tagged = BEGINNINGS["mp3"].replace(b"\xff\xfb", b"\xff\xf1")
    assert another_kind(Window(sized(bytes(500) + tagged + bytes(500))), 1_022, "aac") is None
    inside = b"ID3\4\0\0\0\0\7\0" + BEGINNINGS["mp4"] + bytes(990)
    assert another_kind(Window(sized(inside)), len(inside), "mp3") is None


def sized(content: bytes) -> io.BytesIO:
    class Sized(io.BytesIO):
        size = len(content)

    return Sized(content)
