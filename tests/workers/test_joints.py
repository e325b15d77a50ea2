"""Where another recording begins in a file, told from the container's structure alone."""

from __future__ import annotations

import io

import pytest

from workers.media._joints import joints

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
