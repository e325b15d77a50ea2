"""Files whose time is not simply one: joined, jumping, late, badly interleaved, of unknown length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.robustness.media_matrix.checks import LENGTH_S, Right
from tests.robustness.media_matrix.made_of import FRAGMENTED, A, B, Builder, C
from tests.support.media_files import make
from tests.support.media_oracle import HZ, cut, joined, noise, write_wav


def _plain() -> Iterator[tuple[str, Builder]]:
    def plain(suffix: str, *more: object) -> Builder:
        return lambda source, folder: (cut(source, folder / f"a.{suffix}", *A, *more), Right((A,)))

    for suffix in ("mp4", "mov", "mkv", "webm", "ts", "vob", "flv", "avi", "3gp", "asf", "mpg", "m2ts", "nut"):
        yield f"plain {suffix}", plain(suffix)
    yield "fragmented mp4", plain("mp4", *FRAGMENTED)
    yield "faststart mp4", plain("mp4", "-movflags", "+faststart")
    for suffix, codec in (
        ("mkv", "libx265"),
        ("mp4", "libx265"),
        ("ts", "mpeg2video"),
        ("mkv", "ffv1"),
        ("mov", "prores"),
        ("mxf", "mpeg2video"),
        ("avi", "mjpeg"),
        ("mkv", "libvpx-vp9"),
        ("ogv", "libtheora"),
    ):
        sound = {"mxf": "pcm_s16le", "ogv": "libvorbis", "avi": "pcm_s16le"}.get(suffix, "aac")
        how = (
            "-c:v",
            codec,
            "-q:v",
            "2",
            "-pix_fmt",
            {"prores": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p"),
        )
        yield f"{codec} in {suffix}", plain(suffix, *how, "-c:a", sound)


def _joins() -> Iterator[tuple[str, Builder]]:
    def join(
        suffix: str,
        *spans: tuple[float, float],
        more: tuple[object, ...] = (),
        later: tuple[object, ...] = (),
        **right: object,
    ) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / f"{n}.{suffix}", *span, *more, *(later if n else ()))
                for n, span in enumerate(spans)
            ]
            return joined(folder / f"all.{suffix}", *parts), Right(spans, **right)  # type: ignore[arg-type]

        return build

    for suffix in ("ts", "m2ts", "vob", "mpg", "mkv", "webm", "flv", "avi", "mp4", "mov", "3gp"):
        yield f"two joined {suffix}", join(suffix, A, B, sound_s=0.05)
    for suffix in ("ts", "vob", "mkv", "webm", "flv"):
        yield f"three joined {suffix}", join(suffix, A, B, C, sound_s=0.05)
    yield "two joined fragmented mp4", join("mp4", A, B, more=FRAGMENTED)
    yield "three joined fragmented mp4", join("mp4", A, B, C, more=FRAGMENTED)
    yield "joined fragmented mp4 of CMAF", join("mp4", A, B, more=("-movflags", "cmaf+frag_keyframe+empty_moov"))
    yield "short after long ts", join("ts", A, (12, 13.5))
    yield "long after short ts", join("ts", (2, 3.5), B)
    yield "the same twice ts", join("ts", A, A)
    yield "three equal ts", join("ts", (2, 6), (2, 6), (2, 6))
    yield "without sound joined ts", join("ts", A, B, more=("-an",), has="pictures")
    yield "without sound joined mkv", join("mkv", A, B, more=("-an",), has="pictures")
    yield "without picture joined ts", join("ts", A, B, more=("-vn",), has="sound")
    yield "another shape joined ts", join("ts", A, B, later=("-vf", "scale=320:192"))
    yield "another shape joined fragmented mp4", join("mp4", A, B, more=FRAGMENTED, later=("-vf", "scale=320:192"))
    yield "another rate joined ts", join("ts", A, B, later=("-r", "50"))
    yield "mpeg-2 joined ts", join("ts", A, B, more=("-c:v", "mpeg2video", "-q:v", "2", "-c:a", "mp2"))
    yield "hevc joined ts", join("ts", A, B, more=("-c:v", "libx265", "-x265-params", "log-level=error"))
    yield "b-frames joined ts", join("ts", A, B, more=("-preset", "medium", "-bf", "3"))
    yield "ac-3 joined ts", join("ts", A, B, more=("-c:a", "ac3"))
    for suffix, codec in (("ogg", "libvorbis"), ("opus", "libopus"), ("oga", "flac")):
        yield f"chained {suffix}", join(suffix, A, B, more=("-vn", "-c:a", codec, "-ar", 48000), has="sound")
    yield "chained ogv", join("ogv", A, B, more=("-c:v", "libtheora", "-q:v", "10", "-c:a", "libvorbis"))
    for suffix, codec in (
        ("mp3", "libmp3lame"),
        ("aac", "aac"),
        ("ac3", "ac3"),
        ("flac", "flac"),
        ("amr", "libopencore_amrnb"),
        ("wav", "pcm_s16le"),
    ):

        def build(source: Path, folder: Path, suffix: str = suffix, codec: str = codec) -> tuple[Path, Right]:
            rate = 8000 if suffix == "amr" else 48000
            parts = [
                cut(source, folder / f"{n}.{suffix}", *span, "-vn", "-c:a", codec, "-ar", rate, "-ac", 1)
                for n, span in enumerate((A, B))
            ]
            path = joined(folder / f"all.{suffix}", *parts)
            if suffix in ("flac", "wav", "amr"):
                return path, Right((A, B), has="sound", sound_s=0.05, correlation=0.6 if suffix == "amr" else 0.94)
            # One stream of frames that no header interrupts: it is one recording, of which the second runs on.
            correlation = 0.6 if suffix == "amr" else 0.94
            return path, Right(((2.0, 13.0),), has="sound", skip=((7.9, 13.0),), sound_s=0.12, correlation=correlation)

        yield f"joined {suffix}", build


def _jumps() -> Iterator[tuple[str, Builder]]:
    def jump(*offsets: float, suffix: str = "ts", more: tuple[object, ...] = (), right: Right | None = None) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            spans = (A, B, C)[: len(offsets)]
            parts = [
                cut(source, folder / f"{n}.{suffix}", *span, *more, "-output_ts_offset", offset)
                for n, (span, offset) in enumerate(zip(spans, offsets, strict=True))
            ]
            return joined(folder / f"all.{suffix}", *parts), right or Right(spans)

        return build

    for offset in (17.0, 60.0, 300.0, 3600.0, 40_000.0, 95_000.0):
        yield f"jump ahead to {offset:g} s ts", jump(0, offset)
    for first in (1.0, 3.0, 5.5, 7.0, 3600.0, 90_000.0):
        yield f"back from {first:g} s ts", jump(first, 0)
    yield "ahead and back ts", jump(0, 3600, 10)
    yield "ahead twice ts", jump(0, 3600, 7200)
    yield "back twice ts", jump(7200, 3600, 0)
    yield "runs on ts", jump(0, 6, right=Right(((2, 13),), skip=((7.8, 13),), sound_s=0.05))
    yield "over the wrap ts", jump(95_440, right=Right((A,)))
    yield "over the wrap, then back ts", jump(95_440, 0)
    yield "m2ts jump ahead", jump(0, 3600, suffix="m2ts")
    yield "mpeg-2 jump ahead ts", jump(0, 3600, more=("-c:v", "mpeg2video", "-q:v", "2", "-c:a", "mp2"))
    yield "b-frames jump back ts", jump(3600, 0, more=("-preset", "medium", "-bf", "3"))
    yield "long gop jump ahead ts", jump(0, 3600, more=("-g", "200"))
    yield "sound alone jumps ahead ts", jump(0, 3600, more=("-vn",), right=Right((A, B), has="sound", sound_s=0.05))
    yield "pictures alone jump ahead ts", jump(0, 3600, more=("-an",), right=Right((A, B), has="pictures"))
    yield "jump ahead vob", jump(0, 400, suffix="vob")

    def moved(suffix: str, by: float, at: float = 5.0) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 12)
            later = f"setts=ts='if(gte(PTS*TB,{at}),PTS+{by}/TB,PTS)':dts='if(gte(DTS*TB,{at}),DTS+{by}/TB,DTS)'"
            make("-i", whole, "-c", "copy", "-copyts", "-bsf:v", later, "-bsf:a", later, folder / f"moved.{suffix}")
            return folder / f"moved.{suffix}", Right(((2, 2 + at), (2 + at, 12)), sound_s=0.06)

        return build

    for suffix in ("mkv", "mp4", "mov", "flv"):
        yield f"pause of ten minutes {suffix}", moved(suffix, 600)


def _late() -> Iterator[tuple[str, Builder]]:
    def late(suffix: str, what: str, by: float) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 12)
            offsets = ("-i", whole, "-itsoffset", by, "-i", whole)
            order = ("-map", "0:v", "-map", "1:a") if what == "sound" else ("-map", "1:v", "-map", "0:a")
            make(*offsets, *order, "-c", "copy", folder / f"late.{suffix}")
            first = ((2.0, 2 + by),)
            found = Right(((2, 12 + by),), length_s=0.3, sound_shift_s=-by, silent=first, still=((11.9, 99),))
            if what != "sound":
                found = Right(((2, 12 + by),), length_s=0.3, picture_shift_s=-by, still=first, silent=((12, 99),))
            return folder / f"late.{suffix}", found

        return build

    for suffix in ("mkv", "mp4", "ts", "flv"):
        yield f"sound late {suffix}", late(suffix, "sound", 2.5)
        yield f"pictures late {suffix}", late(suffix, "pictures", 2.5)


def _interleaved() -> Iterator[tuple[str, Builder]]:
    def badly(suffix: str, by: float, first: str = "video") -> Builder:
        """Packets of one kind lie `by` seconds before those of the other in the file."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 20)
            reorder(whole, folder / f"badly.{suffix}", by, first)
            return folder / f"badly.{suffix}", Right(((2, 20),))

        return build

    for suffix in ("mkv", "mp4", "mov"):
        for by in (3.0, 12.0):
            yield f"sound {by:g} s behind in the file {suffix}", badly(suffix, by)
        yield f"pictures 6 s behind in the file {suffix}", badly(suffix, 6.0, "audio")


def reorder(whole: Path, target: Path, by: float, first: str) -> None:
    """The same packets in another order."""
    import av

    with av.open(str(whole)) as given, av.open(str(target), "w", options={"max_interleave_delta": "1"}) as made:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        packets = [packet for packet in given.demux() if packet.dts is not None]

        def place(packet: av.Packet) -> float:
            return float(packet.dts * packet.time_base) + (0 if packet.stream.type == first else by)

        for packet in sorted(packets, key=place):
            packet.stream = streams[packet.stream.index]
            made.mux_one(packet)


def _lengths() -> Iterator[tuple[str, Builder]]:
    def loud_first(suffix: str, *codec: object, correlation: float = 0.9) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            sound = noise()[: 40 * HZ].copy()
            sound[6 * HZ : 35 * HZ] = 0
            wav = write_wav(folder / "in.wav", sound)
            make("-i", wav, *codec, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right(
                ((0, 40),), has="sound", silent=((6, 35),), sound_s=0.06, correlation=correlation
            )

        return build

    yield "vbr loud first aac", loud_first("aac", "-c:a", "aac", "-ar", 48000)
    yield (
        "vbr loud first mp3 without index",
        loud_first("mp3", "-c:a", "libmp3lame", "-q:a", 4, "-write_xing", 0, "-ar", 48000),
    )
    yield "vbr loud first mp3", loud_first("mp3", "-c:a", "libmp3lame", "-q:a", 4, "-ar", 48000)
    yield "vbr loud first ogg", loud_first("ogg", "-c:a", "libvorbis", "-ar", 48000)
    yield "vbr loud first opus", loud_first("opus", "-c:a", "libopus", "-ar", 48000)
    yield "vbr loud first webm", loud_first("webm", "-c:a", "libopus", "-ar", 48000)
    yield "amr", loud_first("amr", "-c:a", "libopencore_amrnb", "-ar", 8000, correlation=0.5)

    def live(suffix: str, *more: object) -> Builder:
        """As a recorder leaves it that cannot go back to its head."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", *A)
            path = folder / f"live.{suffix}"
            path.write_bytes(piped(whole, suffix, *more))
            return path, Right((A,))

        return build

    yield "live webm", live("webm", "-live", 1)
    yield "live mkv", live("mkv", "-live", 1)
    yield "live flv", live("flv", "-flvflags", "no_duration_filesize")
    for start in (0.4, 5.0, 100.0):
        yield (
            f"starts at {start:g} s mkv",
            lambda source, folder, start=start: (
                cut(source, folder / "a.mkv", *A, "-output_ts_offset", start, "-avoid_negative_ts", "disabled"),
                Right((A,)),
            ),
        )
        yield (
            f"starts at {start:g} s mp4",
            lambda source, folder, start=start: (
                cut(source, folder / "a.mp4", *A, "-output_ts_offset", start),
                Right((A,)),
            ),
        )
    yield (
        "slides mkv",
        lambda source, folder: (
            _slides(source, folder / "a.mkv"),
            Right(((0, 240),), still=((0, 300),), has="pictures"),
        ),
    )
    yield (
        "slides mp4",
        lambda source, folder: (
            _slides(source, folder / "a.mp4"),
            Right(((0, 240),), still=((0, 300),), has="pictures"),
        ),
    )


def piped(source: Path, suffix: str, *more: object) -> bytes:
    import subprocess

    from workers.media.ffmpeg import find_ffmpeg

    form = {"mkv": "matroska"}.get(suffix, suffix)
    command = [find_ffmpeg(), "-nostdin", "-v", "error", "-i", source, "-c", "copy", *more, "-f", form, "pipe:1"]
    return subprocess.run(list(map(str, command)), capture_output=True, check=True).stdout


def _slides(source: Path, target: Path) -> Path:
    """Three pictures 80 s apart, the last one shown for as long."""
    make(
        "-i",
        source,
        "-an",
        "-vf",
        "select='lt(n,4)',setpts='N*80/TB'",
        "-fps_mode",
        "vfr",
        "-frames:v",
        4,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-bf",
        0,
        "-pix_fmt",
        "yuv420p",
        target,
    )
    return target


def _more() -> Iterator[tuple[str, Builder]]:
    """Combinations of faults, and faults by name."""

    def dashed(suffix: str, *offsets: float, lost: int | None = None) -> Builder:
        """Fragments as a recorder of live streams joins them: times far from 0, one fragment missing."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(
                source, folder / f"whole.{suffix}", 2, 14, *FRAGMENTED, "-output_ts_offset", offsets[0], "-g", 25
            )
            content = whole.read_bytes()
            if lost is not None:
                begins = [at for at in range(len(content) - 8) if content[at + 4 : at + 8] == b"moof"]
                content = content[: begins[lost]] + content[begins[lost + 1] :]
            (folder / f"live.{suffix}").write_bytes(content)
            gap = ((2.0 + lost, 3.0 + lost),) if lost is not None else ()
            return folder / f"live.{suffix}", Right(((2, 14),), silent=gap, still=gap)

        return build

    yield "fragmented mp4 from 3600 s on", dashed("mp4", 3600.0)
    yield "fragmented mp4 that lacks a fragment", dashed("mp4", 0.0, lost=4)
    yield "fragmented mp4 from 100 s on that lacks a fragment", dashed("mp4", 100.0, lost=4)

    def jump_in_wrapped(suffix: str) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / f"{n}.ts", *span, "-output_ts_offset", offset)
                for n, (span, offset) in enumerate(((A, 50_000.0), (B, 0.0), (C, 500.0)))
            ]
            return joined(folder / "all.ts", *parts), Right((A, B, C))

        return build

    yield "three recordings in any order ts", jump_in_wrapped("ts")
    yield (
        "joined ts of which the first lacks sound",
        lambda source, folder: (
            joined(folder / "all.ts", cut(source, folder / "0.ts", *A, "-an"), cut(source, folder / "1.ts", *B)),
            Right((A, B), silent=(A,)),
        ),
    )
    yield (
        "joined ts of which the second lacks sound",
        lambda source, folder: (
            joined(folder / "all.ts", cut(source, folder / "0.ts", *A), cut(source, folder / "1.ts", *B, "-an")),
            Right((A, B), silent=(B,)),
        ),
    )
    yield (
        "joined mkv of other codecs",
        lambda source, folder: (
            joined(
                folder / "all.mkv",
                cut(source, folder / "0.mkv", *A),
                cut(
                    source, folder / "1.mkv", *B, "-c:v", "mpeg4", "-q:v", 1, "-c:a", "libopus", "-vf", "scale=320:192"
                ),
            ),
            Right((A, B)),
        ),
    )
    yield (
        "ts with noise before it",
        lambda source, folder: (
            _with_noise(cut(source, folder / "a.ts", *A), 188 * 3 + 17),
            Right((A,)),
        ),
    )
    yield (
        "ts cut in its middle",
        lambda source, folder: (
            _from(cut(source, folder / "a.ts", 2, 14, "-g", 25), 0.5),
            Right(((8, 14),), length_s=1.5, sound_s=99, correlation=0, still=((0, 99),)),
        ),
    )
    for hz in (8_000, 11_025, 22_050, 44_100, 96_000):
        yield (
            f"sound of {hz} Hz wav",
            lambda source, folder, hz=hz: (
                cut(source, folder / "a.wav", *A, "-vn", "-c:a", "pcm_s16le", "-ar", hz),
                Right((A,), has="sound"),
            ),
        )
    for rate in ("24000/1001", "30000/1001", "50", "12", "1"):
        yield (
            f"{rate} pictures a second mp4",
            lambda source, folder, rate=rate: (
                cut(source, folder / "a.mp4", *A, "-r", rate),
                Right((A,), length_s=1.1 if rate == "1" else LENGTH_S, still=((0, 99),) if rate in ("1",) else ()),
            ),
        )


def _with_noise(path: Path, count: int) -> Path:
    noisy = np.random.default_rng(3).integers(0, 0x40, count, np.uint8).tobytes()
    path.write_bytes(noisy + path.read_bytes())
    return path


def _from(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[int(len(content) * share) :])
    return path


CASES = (_plain, _joins, _jumps, _late, _interleaved, _lengths, _more)
