"""Files of which single time stamps are damaged, and files whose time truly jumps by as much."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.robustness.media_matrix.checks import Right
from tests.robustness.media_matrix.made_of import Builder
from tests.support.media_files import make
from tests.support.media_oracle import cut, joined

LONG = (2.0, 14.0)
BOTH = ("pts", "dts")
CLUSTER = b"\x1f\x43\xb6\x75"
B_FRAMES = ("-preset", "medium", "-bf", 2, "-x264-params", "scenecut=0")
MPEG2_B = ("-bf", 2, "-sc_threshold", 1_000_000_000)


def damaged(content: bytes, suffix: str, kind: str, numbers: set[int], by_s: float, what: tuple[str, ...]) -> bytes:
    """A file with these time stamps of these packets of a kind moved by so much; packets are counted from 0."""
    found = bytearray(content)
    for number, at in enumerate(_STAMPS[suffix](content, kind)):
        if number in numbers:
            _MOVE[suffix](found, at, by_s, what)
    return bytes(found)


def _pes(content: bytes, kind: str) -> Iterator[int]:
    stream = b"\xe0" if kind == "v" else b"\xc0"
    return (m.start() for m in re.finditer(b"\0\0\1" + stream + rb"..[\x80-\x8f][\x80\xc0]", content, re.DOTALL))


def _move_pes(content: bytearray, at: int, by_s: float, what: tuple[str, ...]) -> None:
    has_both = content[at + 7] & 0xC0 == 0xC0
    for place in [at + 9] * ("pts" in what) + [at + 14] * ("dts" in what and has_both):
        a, b, c, d, e = content[place : place + 5]
        ticks = (a >> 1 & 7) << 30 | b << 22 | c >> 1 << 15 | d << 7 | e >> 1
        ticks = (ticks + round(by_s * 90_000)) % (1 << 33)
        content[place] = a & 0xF1 | ticks >> 30 << 1
        content[place + 1], content[place + 3] = ticks >> 22 & 0xFF, ticks >> 7 & 0xFF
        content[place + 2], content[place + 4] = c & 1 | ticks >> 15 << 1 & 0xFF, e & 1 | ticks << 1 & 0xFF


def _tags(content: bytes, kind: str) -> Iterator[int]:
    at, number = 13, 9 if kind == "v" else 8
    while at + 11 < len(content):
        head = content[at : at + 13]
        if head[0] == number and head[12] == 1:
            yield at
        at += 15 + int.from_bytes(head[1:4], "big")


def _move_tag(content: bytearray, at: int, by_s: float, what: tuple[str, ...]) -> None:
    ms = content[at + 7] << 24 | int.from_bytes(content[at + 4 : at + 7], "big")
    ms = max(0, ms + round(by_s * 1_000))
    content[at + 4 : at + 7], content[at + 7] = (ms & 0xFFFFFF).to_bytes(3, "big"), ms >> 24


def _blocks(content: bytes, kind: str) -> Iterator[int]:
    """Of a Matroska file whose tracks are pictures and sound in this order."""
    at, end = content.find(CLUSTER), len(content)
    while 0 <= at < end:
        mark = content[at]
        name, (place, length) = content[at : at + 9 - mark.bit_length()], _length(content, at + 9 - mark.bit_length())
        if name == CLUSTER:
            at = place
            continue
        if name in (b"\xa3", b"\xa0"):
            begin = place if name == b"\xa3" else _length(content, place + 1)[0]
            if content[begin] == (0x81 if kind == "v" else 0x82):
                yield begin + 1
        at = place + length


def _length(content: bytes, at: int) -> tuple[int, int]:
    count = 9 - content[at].bit_length()
    return at + count, int.from_bytes(content[at : at + count], "big") & ((1 << 7 * count) - 1)


def _move_block(content: bytearray, at: int, by_s: float, what: tuple[str, ...]) -> None:
    ms = int.from_bytes(content[at : at + 2], "big", signed=True) + round(by_s * 1_000)
    content[at : at + 2] = max(-32_768, min(32_767, ms)).to_bytes(2, "big", signed=True)


_STAMPS: dict[str, Callable[[bytes, str], Iterator[int]]] = {
    **dict.fromkeys(("ts", "m2ts", "vob"), _pes),
    "flv": _tags,
    **dict.fromkeys(("mkv", "webm"), _blocks),
}
_MOVE: dict[str, Callable[[bytearray, int, float, tuple[str, ...]], None]] = {
    **dict.fromkeys(("ts", "m2ts", "vob"), _move_pes),
    "flv": _move_tag,
    **dict.fromkeys(("mkv", "webm"), _move_block),
}
"""Where the time stamps of a file's packets lie, and how one is moved."""


def _single() -> Iterator[tuple[str, Builder]]:
    for suffix in _STAMPS:
        mpeg, limit_s = suffix == "vob", 30.0 if suffix in ("mkv", "webm") else 1e9
        sound = 60 if mpeg else 30 if suffix in ("ts", "m2ts") else 250
        for by_s in (0.7, 3.0, 20.0, 3_600.0, -0.7, -3.0):
            if abs(by_s) > limit_s:
                continue
            yield f"one stamp of picture {by_s:+g} s {suffix}", _by_bytes(suffix, "v", {60 if mpeg else 130}, by_s)
            yield f"one stamp of sound {by_s:+g} s {suffix}", _by_bytes(suffix, "a", {sound}, by_s)
        if mpeg:
            for by_s in (3.0, 3_600.0, -3.0):
                stamps = _by_bytes(suffix, "v", {60}, by_s, what=("pts",))
                yield f"one stamp of picture {by_s:+g} s, not of its decoding {suffix}", stamps
        for by_s in (3.0, min(3_600.0, limit_s - 10)):
            numbers = {40, 60, 61, 90} if mpeg else {30, 130, 131, 200}
            yield f"several stamps of pictures {by_s:+g} s {suffix}", _by_bytes(suffix, "v", numbers, by_s)
            if suffix != "webm":
                coded = _by_bytes(suffix, "v", {62 if mpeg else 132}, by_s, *(MPEG2_B if mpeg else B_FRAMES))
                yield f"one stamp of a picture {by_s:+g} s, b-frames {suffix}", coded
    for suffix in ("mp4", "mov", "nut"):
        for by_s in (0.7, 3.0, 20.0, 3_600.0, -0.7, -3.0):
            for how in ((), B_FRAMES):
                name = f"one picture shown {by_s:+g} s off{', b-frames' if how else ''} {suffix}"
                yield name, _written(suffix, by_s, *how)


def _edges() -> Iterator[tuple[str, Builder]]:
    """The first or the last packet of a stream, and those that would be before the clock's beginning."""
    for suffix in _STAMPS:
        for by_s in (3.0, 8.0, 20.0):
            for kind, name in (("v", "picture"), ("a", "sound")):
                yield f"the last stamp of {name} {by_s:+g} s {suffix}", _by_bytes(suffix, kind, {-1}, by_s)
        for by_s in (0.7, 20.0, 3_600.0):
            late = {"skip": ((1.9, 2.3),), "length_s": 0.4}
            for kind, name in (("v", "picture"), ("a", "sound")):
                if by_s < 30 or (suffix, kind) == ("flv", "v"):
                    yield f"the first stamp of {name} {by_s:+g} s {suffix}", _by_bytes(suffix, kind, {0}, by_s, **late)
    yield "the last picture shown 20 s later mp4", _written("mp4", 20, number=299)
    yield "the last picture shown an hour later mp4", _written("mp4", 3_600, number=299)
    for by_s in (3.0, 20.0):
        for number, name in ((0, "first"), (10, "eleventh"), (-1, "last")):
            yield f"the {name} page of sound {by_s:+g} s opus", _page(number, by_s)
    lost = {"failing": ("decode_failed", "decode_incomplete"), "skip": ((2, 6.1),)}
    for kind, name in (("v", "picture"), ("a", "sound")):
        yield f"one stamp of {name} before the clock's beginning ts", _by_bytes("ts", kind, {12}, -20.0, **lost)


def _steps() -> Iterator[tuple[str, Builder]]:
    """One stream's times stand still or step back for a while, as the other's go on."""

    def stepped(suffix: str, kind: str, times: str, **right: object) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", *LONG)
            make("-i", whole, "-c", "copy", f"-bsf:{kind}", f"setts=ts='{times}'", folder / f"a.{suffix}")
            found = {"sound_s": 0.08, "length_s": 0.4, **right}
            return folder / f"a.{suffix}", Right((LONG,), **found)  # type: ignore[arg-type]

        return build

    passed = "PTS*TB-STARTPTS*TB"
    for suffix in ("flv", "mkv", "ts", "m2ts", "mp4"):
        stands = f"if(between({passed},5,5.5),(STARTPTS*TB+5)/TB,PTS)"
        yield f"times of sound stand still for 0.5 s {suffix}", stepped(suffix, "a", stands, correlation=0.85)
        back = f"if(between({passed},5,6),PTS-0.4/TB,PTS)"
        yield f"times of sound step back for 1 s {suffix}", stepped(suffix, "a", back, skip=((6.5, 8.1),))
        stands = f"if(between({passed},5,6),(STARTPTS*TB+5)/TB+(N-125),PTS)"
        yield f"times of pictures stand still for 1 s {suffix}", stepped(suffix, "v", stands, still=((6.9, 8.1),))


def _page(number: int, by_s: float) -> Builder:
    """An Ogg page of another time, with the checksum of it."""

    def build(source: Path, folder: Path) -> tuple[Path, Right]:
        how = ("-vn", "-c:a", "libopus", "-page_duration", 200_000)
        content = bytearray(cut(source, folder / "whole.opus", *LONG, *how).read_bytes())
        pages = [m.start() for m in re.finditer(b"OggS\0", content)][2:]
        at = pages[number]
        end = min((page for page in pages if page > at), default=len(content))
        passed = int.from_bytes(content[at + 6 : at + 14], "little") + round(by_s * 48_000)
        content[at + 6 : at + 14], content[at + 22 : at + 26] = passed.to_bytes(8, "little"), bytes(4)
        content[at + 22 : at + 26] = _ogg_checksum(content[at:end]).to_bytes(4, "little")
        (folder / "a.opus").write_bytes(content)
        begin_s = LONG[0] if number else LONG[0] + 0.213  # the first page begins nothing
        span = (begin_s, LONG[1])
        right = Right((span,), has="sound", sound_s=0.06, length_s=0.4, skip=((1.9, 2.3), (3.8, 4.6)))
        return folder / "a.opus", right

    return build


def _ogg_checksum(page: bytes) -> int:
    found = 0
    for byte in page:
        found ^= byte << 24
        for _ in range(8):
            found = (found << 1 ^ (0x04C11DB7 if found >> 31 else 0)) & 0xFFFFFFFF
    return found


def _by_bytes(
    suffix: str,
    kind: str,
    numbers: set[int],
    by_s: float,
    *how: object,
    what: tuple[str, ...] = BOTH,
    **right: object,
) -> Builder:
    def build(source: Path, folder: Path) -> tuple[Path, Right]:
        content = cut(source, folder / f"whole.{suffix}", *LONG, *how).read_bytes()
        count = sum(1 for _ in _STAMPS[suffix](content, kind))
        if suffix == "flv" and kind == "v":
            count -= 1  # a tag that says that there are no more
        changed = damaged(content, suffix, kind, {number + count * (number < 0) for number in numbers}, by_s, what)
        assert changed != content
        (folder / f"a.{suffix}").write_bytes(changed)
        return folder / f"a.{suffix}", Right((LONG,), **{"sound_s": 0.06, **right})  # type: ignore[arg-type]

    return build


def _written(suffix: str, by_s: float, *how: object, number: int = 130) -> Builder:
    """As a muxer writes it that was told so."""

    def build(source: Path, folder: Path) -> tuple[Path, Right]:
        whole = cut(source, folder / f"whole.{suffix}", *LONG, *how)
        times = f"setts=pts='if(eq(N,{number}),PTS+{by_s}/TB,PTS)'"
        make("-i", whole, "-c", "copy", "-bsf:v", times, folder / f"a.{suffix}")
        return folder / f"a.{suffix}", Right((LONG,), sound_s=0.06)

    return build


def _true() -> Iterator[tuple[str, Builder]]:
    """Times that truly jump, pause, or are far apart: what is taken for damaged elsewhere."""

    def parts(suffix: str, *offsets: float, last_s: float = 5.0) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            spans = ((2.0, 8.0), (12.0, 12.0 + last_s))
            made = [
                cut(source, folder / f"{n}.{suffix}", *span, "-output_ts_offset", offset)
                for n, (span, offset) in enumerate(zip(spans, offsets, strict=True))
            ]
            return joined(folder / f"all.{suffix}", *made), Right(spans, length_s=0.3)

        return build

    def short_first(suffix: str, first_s: float, *offsets: float) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            spans = ((2.0, 2.0 + first_s), (12.0, 17.0))
            made = [
                cut(source, folder / f"{n}.{suffix}", *span, "-output_ts_offset", offset)
                for n, (span, offset) in enumerate(zip(spans, offsets, strict=True))
            ]
            return joined(folder / f"all.{suffix}", *made), Right(spans, length_s=0.3, sound_s=0.06)

        return build

    for suffix in ("ts", "vob"):
        for first_s in (0.2, 0.8):
            for first, second in ((36, 0), (1, 0), (0, 36)):
                name = f"{first_s:g} s from {first} s on, then from {second} s on {suffix}"
                yield name, short_first(suffix, first_s, first, second)
        for last_s in (0.8, 1.5, 5.0):
            yield f"half a minute ahead, {last_s:g} s more {suffix}", parts(suffix, 0, 36, last_s=last_s)
            yield f"half a minute back, {last_s:g} s more {suffix}", parts(suffix, 36, 0, last_s=last_s)
            yield f"a second back, {last_s:g} s more {suffix}", parts(suffix, 1, 6, last_s=last_s)

    def pause(suffix: str, by_s: float) -> Builder:
        """Both stop for a while: the last picture stays, and nothing is heard."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", *LONG)
            later = f"setts=ts='if(gte(PTS*TB,5),PTS+{by_s}/TB,PTS)':dts='if(gte(DTS*TB,5),DTS+{by_s}/TB,DTS)'"
            make("-i", whole, "-c", "copy", "-copyts", "-bsf:v", later, "-bsf:a", later, folder / f"a.{suffix}")
            gap, edges = (7.03, 6.97 + by_s), ((6.85, 7.08), (6.9 + by_s, 7.2 + by_s))
            moved = ((7.0 + by_s, -by_s),)
            right = Right(
                ((2, 14 + by_s),), length_s=0.3, sound_s=0.06, silent=(gap,), still=(gap,), skip=edges, moved=moved
            )
            return folder / f"a.{suffix}", right

        return build

    for suffix in ("mkv", "mp4", "flv"):
        for by_s in (0.7, 3.0, 20.0):
            yield f"a pause of {by_s:g} s {suffix}", pause(suffix, by_s)

    def slides(suffix: str, *how: object) -> Builder:
        """A picture every 7 s, and sound."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            path = folder / f"a.{suffix}"
            chosen = ("-vf", "select='not(mod(n,175))'", "-fps_mode", "vfr", *how)
            cut(source, path, 0, 23, *chosen)
            return path, Right(((0, 23),), length_s=7.1, sound_s=0.06, still=((0, 99),))

        return build

    for suffix in ("mkv", "mp4", "flv", "ts", "webm"):
        yield f"a picture every 7 s {suffix}", slides(suffix)


CASES = (_single, _edges, _steps, _true)
