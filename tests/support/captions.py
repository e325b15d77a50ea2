"""Files with closed captions (EIA-608) inside the video, as US broadcasters have them: written byte by byte."""

from __future__ import annotations

import re

from tests.support.media_files import make

RATE = 30
_RESUME, _ROW_15, _SHOW, _ERASE, _ROLL_2, _RETURN = (0x20, 0x70, 0x2F, 0x2C, 0x25, 0x2D)


def _odd(byte):
    return byte | (0x80 if byte.bit_count() % 2 == 0 else 0)


def _control(code):
    return [(0x14, code)] * 2  # each is sent twice


def _written(text):
    text += " " * (len(text) % 2)
    return [(ord(a), ord(b)) for a, b in zip(text[::2], text[1::2], strict=True)]


def pop_on(*captions, frames):
    """Byte pairs, one a frame: each caption (frame, text) is on screen from about its frame until the next one."""
    pairs = []
    for at, text in captions:
        shown = [*_control(_RESUME), *_control(_ROW_15), *_written(text)] if text else []
        pairs += [(0, 0)] * (at - len(pairs) - len(shown)) + shown + _control(_SHOW if text else _ERASE)
    return pairs + [(0, 0)] * (frames - len(pairs))


def roll_up(*lines, every, frames):
    """The same of captions in two rows that roll, one line every so many frames."""
    pairs = _control(_ROLL_2)
    for line in lines:
        row = [*_control(_RETURN), *_control(_ROW_15), *_written(line)]
        pairs += row + [(0, 0)] * (every - len(row))
    return pairs + [(0, 0)] * (frames - len(pairs))


def _data(pair):
    return b"GA94\x03" + bytes([0xC0 | 2, 0xFF, 0xFC, *map(_odd, pair), 0xFA, 0, 0, 0xFF])


def captioned_mpeg2(target, pairs):
    """An MPEG-2 transport stream with B pictures: the captions come in another order than they are shown."""
    raw = target.with_suffix(".m2v")
    source = f"testsrc2=size=96x64:rate={RATE}"
    gop = ("-bf", "2", "-g", "600", "-sc_threshold", "1000000000", "-flags", "+cgop")
    make("-f", "lavfi", "-i", source, "-frames:v", len(pairs), "-c:v", "mpeg2video", *gop, raw)
    parts = re.split(rb"(?=\x00\x00\x01\x00)", raw.read_bytes())
    for n, part in enumerate(parts[1:], 1):
        shown = part[4] << 2 | part[5] >> 6  # temporal_reference
        at = part.index(b"\x00\x00\x01\x01")  # the first slice
        parts[n] = part[:at] + b"\x00\x00\x01\xb2" + _data(pairs[shown]) + part[at:]
    raw.write_bytes(b"".join(parts))
    make("-fflags", "+genpts", "-r", RATE, "-i", raw, "-c", "copy", target)
    raw.unlink()


def captioned_h264(target, pairs):
    """An MP4 with H.264, the captions in SEI."""
    raw = target.with_suffix(".h264")
    source = f"testsrc2=size=96x64:rate={RATE}"
    h264 = ("-c:v", "libx264", "-bf", "0", "-preset", "ultrafast", "-x264-params", "slices=1")
    make("-f", "lavfi", "-i", source, "-frames:v", len(pairs), *h264, raw)
    units = re.split(rb"(?=\x00\x00\x01[\x41\x61\x65])", raw.read_bytes())
    assert len(units) == len(pairs) + 1
    seis = []
    for pair in pairs:
        payload = b"\xb5\x00\x31" + _data(pair)
        seis.append(b"\x00\x00\x01\x06\x04" + bytes([len(payload)]) + payload + b"\x80")
    raw.write_bytes(units[0] + b"".join(sei + unit for sei, unit in zip(seis, units[1:], strict=True)))
    make("-r", RATE, "-i", raw, "-c", "copy", target)
    raw.unlink()
