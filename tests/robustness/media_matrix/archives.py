"""Files as archives hold them whose headers, tracks or bytes mislead: codecs that nobody decodes, broadcasts that
change, sound of every trade, holes, edit lists, wrong lengths."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.robustness.media_matrix.checks import Right
from tests.robustness.media_matrix.made_of import FRAGMENTED, A, B, Builder
from tests.robustness.media_matrix.mp4_boxes import edited, with_durations
from tests.robustness.media_matrix.writers import SOUND, _after, _coded, _first, _patched, _set
from tests.support.media_files import make
from tests.support.media_oracle import HZ, cut, joined, noise, write_wav

LONG = (2, 14)
PCM = ("-vn", "-c:a", "pcm_s16le", "-ar", 16_000)
MJPEG = ("-c:v", "mjpeg", "-q:v", 2, "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le")
LOST = {"failing": ("decode_failed", "decode_incomplete")}
Patch = Callable[[bytearray], bytes | bytearray]


def _codecs() -> Iterator[tuple[str, Builder]]:
    left_out = {"notes": ("cannot be decoded and is left out",)}
    for suffix, codec, more in (
        ("flv", "flashsv", ("-c:a", "libmp3lame", "-ar", 44_100)),
        ("avi", "zmbv", ("-c:a", "pcm_s16le")),
        ("mkv", "vc2", ("-strict", -1)),
        ("avi", "magicyuv", ("-c:a", "pcm_s16le")),
        ("mov", "rpza", ("-c:a", "pcm_s16le")),
        ("mov", "r210", ("-pix_fmt", "gbrp10le", "-c:a", "pcm_s16le")),
        ("avi", "snow", ("-c:a", "pcm_s16le")),
    ):
        yield (
            f"pictures in {codec} {suffix}",
            _coded(suffix, "-c:v", codec, *more, has="sound", sound_s=0.07, **left_out),
        )
    for suffix, codec in (("avi", "adpcm_yamaha"), ("mkv", "wavpack"), ("mkv", "tta")):
        yield f"sound in {codec} {suffix}", _coded(suffix, "-c:a", codec, has="pictures", **left_out)
    for suffix, codec, pixels in (
        ("mov", "qtrle", "rgb24"),
        ("avi", "msvideo1", "rgb555le"),
        ("avi", "cinepak", "rgb24"),
        ("avi", "huffyuv", "yuv422p"),
        ("avi", "utvideo", "yuv420p"),
        ("mov", "v210", "yuv422p10le"),
        ("mov", "svq1", "yuv410p"),
        ("mov", "cfhd", "yuv422p10le"),
        ("mxf", "jpeg2000", "yuv420p"),
        ("avi", "msmpeg4", "yuv420p"),
        ("mov", "png", "rgb24"),
        ("avi", "ljpeg", "yuvj420p"),
    ):
        sound = ("-c:a", "pcm_s16le", "-ar", 48_000)
        yield f"{codec} in {suffix}", _coded(suffix, "-c:v", codec, "-pix_fmt", pixels, "-q:v", 2, *sound)
    paletted = "format=rgb24,split[a][b];[a]palettegen[p];[b][p]paletteuse"
    for suffix in ("avi", "mov", "nut"):
        raw = ("-vf", paletted, "-c:v", "rawvideo", "-pix_fmt", "pal8", "-c:a", "pcm_s16le")
        yield f"raw pictures with a palette {suffix}", _coded(suffix, *raw, span=LONG)
        grey = ("-c:v", "rawvideo", "-pix_fmt", "gray", "-c:a", "pcm_s16le")
        yield f"raw grey pictures {suffix}", _coded(suffix, *grey, span=LONG)
    for suffix, codec in (
        ("aiff", "pcm_f64be"),
        ("aiff", "adpcm_ima_qt"),
        ("caf", "pcm_f32le"),
        ("w64", "pcm_s24le"),
        ("au", "pcm_f32be"),
        ("mov", "pcm_u8"),
        ("mov", "pcm_s8"),
        ("mov", "pcm_s24le"),
        ("m2ts", "pcm_bluray"),
        ("vob", "pcm_dvd"),
        ("avi", "aac"),
    ):
        how = ("-c:a", codec, "-ar", 48_000, *(("-ac", 2) if codec in ("pcm_bluray", "pcm_dvd") else ()))
        alone = suffix in ("aiff", "caf", "w64", "au")
        right = {"has": "sound" if alone else "both", "sound_s": 0.08}
        yield f"{codec} in {suffix}", _coded(suffix, *(("-vn",) if alone else ()), *how, span=LONG, **right)


def _packets(content: bytearray) -> np.ndarray:
    return np.frombuffer(bytes(content), np.uint8).reshape(-1, 188).copy()


def _pids(packets: np.ndarray) -> np.ndarray:
    return (packets[:, 1].astype(int) & 0x1F) << 8 | packets[:, 2]


def _broadcasts() -> Iterator[tuple[str, Builder]]:
    def scrambled(pids: tuple[int, ...], first: float, last: float) -> Patch:
        def patch(content: bytearray) -> bytes:
            packets, random = _packets(content), np.random.default_rng(1)
            place = np.arange(len(packets)) / len(packets)
            chosen = np.isin(_pids(packets), pids) & (place >= first) & (place < last) & (packets[:, 3] & 0x10 > 0)
            packets[chosen, 3] |= 0x80
            for number in np.flatnonzero(chosen):
                begin = 4 + (1 + packets[number, 4] if packets[number, 3] & 0x20 else 0)
                packets[number, begin:] = random.integers(0, 256, max(0, 188 - begin), np.uint8)
            return packets.tobytes()

        return patch

    said = {"notes": ("is scrambled",), "sound_s": 0.06, **LOST}
    both = (0x100, 0x101)
    pictures = _coded("ts", span=LONG, has="sound", **said)
    yield "the pictures scrambled ts", _patched(pictures, scrambled((0x100,), 0, 1))
    yield (
        "the second half scrambled ts",
        _patched(_coded("ts", span=LONG, length_s=6.5, **said), scrambled(both, 0.5, 1)),
    )
    middle = _coded("ts", span=LONG, skip=((5.4, 11),), **said)
    yield "the middle third scrambled ts", _patched(middle, scrambled(both, 0.33, 0.66))

    def edited_ts(name: str, patch: Callable[[np.ndarray], np.ndarray], **right: object) -> tuple[str, Builder]:
        whole = _coded("ts", span=LONG, **{"sound_s": 0.06, **right})
        return f"{name} ts", _patched(whole, lambda content: patch(_packets(content)).tobytes())

    tables = (0, 17, 0x1000)
    yield edited_ts("tables only at the head", lambda p: p[~np.isin(_pids(p), tables) | (np.arange(len(p)) < 20)])
    yield edited_ts(
        "tables only in the second half", lambda p: p[~np.isin(_pids(p), tables) | (np.arange(len(p)) * 2 > len(p))]
    )
    empty = np.frombuffer(b"\x47\x1f\xff\x10" + b"\xff" * 184, np.uint8)
    yield edited_ts(
        "five empty packets behind each", lambda p: np.stack([p, *[np.broadcast_to(empty, p.shape)] * 5], 1)
    )
    yield edited_ts(
        "a sixth of the packets lost", lambda p: np.delete(p, slice(len(p) // 3, len(p) // 2), 0), skip=((5.8, 8.4),)
    )

    def changes(
        *second: object, first: tuple[object, ...] = (), hour: int = 0, suffix: str = "ts", **right: object
    ) -> Builder:
        """Another recording from 8 s on, whose clock goes on or is an hour later."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            later = ("-output_ts_offset", hour or 6)
            parts = [
                cut(source, folder / f"0.{suffix}", 2, 8, *first),
                cut(source, folder / f"1.{suffix}", 8, 14, *first, *second, *later),
            ]
            found = {"parts": ((2, 8), (8, 14)), "sound_s": 0.09, "length_s": 0.4, "skip": ((7.9, 8.25),), **right}
            return joined(folder / f"all.{suffix}", *parts), Right(**found)  # type: ignore[arg-type]

        return build

    mpeg2 = ("-c:v", "mpeg2video", "-q:v", 2, "-c:a", "mp2")
    yield "sound under another pid ts", changes("-streamid", "1:300")
    yield "sound under another pid m2ts", changes("-streamid", "1:300", suffix="m2ts")
    yield "sound under another pid, mpeg-2 ts", changes("-streamid", "1:300", first=mpeg2)
    yield "sound under another pid, ac-3 ts", changes("-streamid", "1:300", "-c:a", "ac3")
    b_pictures = ("-preset", "medium", "-bf", 3, "-g", 50)
    yield "sound under another pid, b pictures ts", changes("-streamid", "1:300", "-c:a", "mp2", first=b_pictures)
    yield "sound under another pid, an hour later ts", changes("-streamid", "1:300", hour=3_600)
    yield "pictures under another pid ts", changes("-streamid", "0:300")
    yield "larger pictures under another pid ts", changes("-streamid", "0:300", "-vf", "scale=320:192")
    hevc = ("-c:v", "libx265", "-x265-params", "log-level=error")
    yield "hevc under another pid ts", changes("-streamid", "0:300", *hevc)
    yield "both under other pids ts", changes("-streamid", "0:300", "-streamid", "1:301")
    one = {"parts": (LONG,)}
    yield "tables under another pid ts", changes("-mpegts_pmt_start_pid", 0x500, **one)
    yield (
        "sound comes in the middle ts",
        lambda source, folder: (
            joined(
                folder / "all.ts",
                cut(source, folder / "0.ts", 2, 8, "-an"),
                cut(source, folder / "1.ts", 8, 14, "-output_ts_offset", 6),
            ),
            Right((LONG,), sound_s=0.09, length_s=0.4, skip=((7.9, 8.25),), silent=((2, 8),)),
        ),
    )
    for at in (1.0, 6.0, 11.9):
        start = ("-output_ts_offset", 95_443.7 - 1.4 - at)
        yield f"the clock wraps after {at:g} s ts", _coded("ts", *start, span=LONG, sound_s=0.06)
    for suffix in ("ts", "vob", "flv", "asf", "mkv"):
        rare = ("-sc_threshold", 1_000_000_000, "-g", 500) if suffix == "vob" else ("-g", 2_000)
        yield f"a key picture in 20 s {suffix}", _coded(suffix, *rare, span=(2, 22), sound_s=0.06)
    refreshed = ("-preset", "medium", "-x264-params", "intra-refresh=1:keyint=50:bframes=0")
    yield "refreshed by columns ts", _coded("ts", *refreshed, span=(2, 22), sound_s=0.06)


def _waves() -> Iterator[tuple[str, Builder]]:
    whole = _coded("wav", *PCM, span=LONG, **SOUND)
    large = _coded("wav", *PCM, "-rf64", "always", span=LONG, **SOUND)
    half = _coded("wav", *PCM, span=LONG, skip=((8, 99),), **SOUND, **LOST)
    yield "wav of half the byte rate", _patched(whole, _set(_after(b"fmt ", 12), "<I", 16_000))
    yield "wav of no byte rate", _patched(whole, _set(_after(b"fmt ", 12), "<I", 0))

    def with_chunk(count: int) -> Patch:
        def patch(content: bytearray) -> bytearray:
            at = content.find(b"data")
            longer = content[:at] + b"junk" + struct.pack("<I", count) + bytes(count) + content[at:]
            struct.pack_into("<I", longer, 4, len(longer) - 8)
            return longer

        return patch

    yield "wav with 3 MB before its samples", _patched(whole, with_chunk(3_000_000))
    yield (
        "wav with 3 MB before its samples, cut off",
        _patched(_patched(half, with_chunk(3_000_000)), lambda c: c[: 3_000_000 + 192_000]),
    )
    counted = _coded("wav", *PCM, span=LONG, length_s=6.1, notes=("behind the end",), **SOUND)
    yield "wav whose header counts half of it", _patched(counted, _set(_after(b"data"), "<I", 192_000))

    def named(content: bytearray) -> bytearray:
        content[:4] = b"BW64"
        return content

    yield "bw64", _patched(large, named)
    cut_off = _coded("wav", *PCM, "-rf64", "always", span=LONG, skip=((8, 99),), **SOUND, **LOST)
    yield "bw64 cut off", _patched(_patched(cut_off, named), _first(0.5))
    yield "rf64 cut off", _patched(cut_off, _first(0.5))
    for name, patch in (("rf64", lambda content: content), ("bw64", named)):

        def both(source: Path, folder: Path, patch: Patch = patch) -> tuple[Path, Right]:
            parts = [cut(source, folder / f"{n}.wav", *span, *PCM, "-rf64", "always") for n, span in enumerate((A, B))]
            for part in parts:
                part.write_bytes(patch(bytearray(part.read_bytes())))
            return joined(folder / "all.wav", *parts), Right((A, B), **SOUND)  # type: ignore[arg-type]

        yield f"joined {name}", both
    for codec in ("libmp3lame", "ac3", "pcm_alaw", "g726"):
        hz = 8_000 if codec in ("pcm_alaw", "g726") else 48_000
        how = ("-vn", "-c:a", codec, "-ar", hz, "-ac", 1)
        yield f"{codec} in wav", _coded("wav", *how, span=LONG, correlation=0.8, **SOUND)

    def bursts(source: Path, folder: Path) -> bytes:
        coded = cut(source, folder / "coded.ac3", *LONG, "-vn", "-c:a", "ac3")
        make("-i", coded, "-c", "copy", "-f", "spdif", folder / "bursts")
        return (folder / "bursts").read_bytes()

    def in_wav(source: Path, folder: Path) -> tuple[Path, Right]:
        content = bursts(source, folder)
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 48_000, 192_000, 4, 16)
        head = b"RIFF" + struct.pack("<I", 36 + len(content)) + b"WAVE" + form
        (folder / "a.wav").write_bytes(head + b"data" + struct.pack("<I", len(content)) + content)
        return folder / "a.wav", Right((LONG,), has="sound", sound_s=0.08)

    def in_mov(source: Path, folder: Path) -> tuple[Path, Right]:
        bursts(source, folder)
        sound = ("-f", "s16le", "-ar", 48_000, "-ac", 2, "-i", folder / "bursts")
        shown = cut(source, folder / "shown.mp4", *LONG, "-an")
        make(*sound, "-i", shown, "-map", 1, "-map", 0, "-c", "copy", folder / "a.mov")
        return folder / "a.mov", Right((LONG,), has="pictures", notes=("SMPTE 337",))

    yield "ac-3 in place of samples wav", in_wav
    yield "ac-3 in place of samples mov", in_mov
    mp3 = _coded("mp3", "-vn", "-c:a", "libmp3lame", "-q:a", 4, "-ar", 48_000, "-ac", 1, span=LONG, **SOUND)
    ape = b"APETAGEX" + struct.pack("<III", 2_000, 500_032, 1) + bytes(500_012)
    yield "mp3 with a tag of 500 kB behind it", _patched(mp3, lambda content: content + ape)
    yield "mp3 with 300 kB of zeros before it", _patched(mp3, lambda content: bytes(300_000) + content)
    for hz, codec in ((96_000, "pcm_s24le"), (192_000, "pcm_f32le"), (88_200, "flac"), (12_000, "pcm_s16le")):
        yield f"{codec} of {hz} Hz mka", _coded("mka", "-vn", "-c:a", codec, "-ar", hz, **SOUND)


def _phases() -> Iterator[tuple[str, Builder]]:
    nothing = {"correlation": -2, "sound_s": 99, "notes": ("opposite phase",)}

    def channels(suffix: str, gains: tuple[float, ...], codec: str, *more: object) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            wav = write_wav(folder / "in.wav", *(np.float32(gain) * noise()[2 * HZ : 8 * HZ] for gain in gains))
            make("-i", wav, "-c:a", codec, *more, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right((A,), has="sound", **nothing)  # type: ignore[arg-type]

        return build

    yield "two channels of opposite phase", channels("wav", (1, -1), "pcm_s16le")
    yield "four channels that cancel out", channels("wav", (1, -1, 0.5, -0.5), "pcm_s16le")
    yield "three channels that cancel out", channels("wav", (1, -0.5, -0.5), "pcm_s16le")
    yield "5.1 whose front cancels out ac-3", channels("ac3", (1, -1, 0, 0, 0, 0), "ac3", "-b:a", "640k")
    yield "eight channels that cancel out flac", channels("flac", (1, -1) * 4, "flac")

    def tracks(suffix: str, gains: tuple[float, ...]) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            sound = noise()[2 * HZ : 8 * HZ]
            wavs = [write_wav(folder / f"{n}.wav", np.float32(gain) * sound) for n, gain in enumerate(gains)]
            inputs = [argument for wav in wavs for argument in ("-i", wav)]
            maps = [argument for n in range(len(wavs)) for argument in ("-map", n + 1)]
            codecs = ("-c:v", "mpeg2video", "-q:v", 2, "-c:a", "pcm_s16le", "-ar", 48_000)
            make("-ss", 2, "-t", 6, "-i", source, *inputs, "-map", "0:v", *maps, *codecs, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right((A,), **nothing)  # type: ignore[arg-type]

        return build

    yield "mono tracks that cancel out mxf", tracks("mxf", (1, -1))
    yield "mono tracks that cancel out mov", tracks("mov", (1, -1, 0.8, -0.8))


def _blank() -> Iterator[tuple[str, Builder]]:
    for suffix in ("mkv", "mp4"):

        def build(source: Path, folder: Path, suffix: str = suffix) -> tuple[Path, Right]:
            black = ("-f", "lavfi", "-i", "color=black:s=160x96:r=25:d=6")
            maps = (
                "-map",
                "0:v",
                "-map",
                "1:v",
                "-map",
                "1:a",
                "-c:v",
                "libx264",
                "-pix_fmt",
                "yuv420p",
                "-c:a",
                "aac",
            )
            make(*black, "-ss", 2, "-t", 6, "-i", source, *maps, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right((A,))

        yield f"a black track of pictures first {suffix}", build


def _holes() -> Iterator[tuple[str, Builder]]:
    def zeros(content: bytearray) -> bytearray:
        first, last = int(len(content) * 0.4), int(len(content) * 0.6)
        content[first:last] = bytes(last - first)
        return content

    def shorter(content: bytearray) -> bytes:
        return bytes(content[: int(len(content) * 0.4)] + content[int(len(content) * 0.6) :])

    theora = ("-c:v", "libtheora", "-q:v", 10, "-c:a", "libvorbis")
    for name, patch in (("zeros in the middle", zeros), ("a piece cut out", shorter)):
        for suffix, codec in (("flac", "flac"), ("ogg", "libvorbis"), ("opus", "libopus"), ("oga", "flac")):
            whole = _coded(suffix, "-vn", "-c:a", codec, "-ar", 48_000, span=LONG, skip=((5.4, 10.6),), **SOUND, **LOST)
            yield f"{name} {suffix}", _patched(whole, patch)
        for suffix in ("mkv", "webm", "flv", "asf", "mpg", "ogv", "nut"):
            how = theora if suffix == "ogv" else ()
            whole = _coded(suffix, *how, span=LONG, sound_s=0.08, skip=((5.4, 11),), **LOST)
            yield f"{name} {suffix}", _patched(whole, patch)


def _lengths() -> Iterator[tuple[str, Builder]]:
    whole = _coded("mp4", span=LONG, sound_s=0.05)
    for factor in (0, 0.5, 10):
        for kinds in ((b"mvhd",), (b"mdhd",), (b"tkhd",), (b"mvhd", b"tkhd", b"mdhd")):
            names = " ".join(kind.decode() for kind in kinds)
            yield f"{names} of {factor:g} times the length mp4", _patched(whole, with_durations(factor, *kinds))
    for unit in (25, 1_000, 2_000_000_000):
        yield f"{unit} units a second mp4", _coded("mp4", "-video_track_timescale", unit, span=LONG, sound_s=0.05)
    for name, flags in (
        ("an index of the first fragment", ("-movflags", "frag_keyframe")),
        ("an index of the fragments", ("-movflags", "frag_keyframe+empty_moov+global_sidx+default_base_moof")),
        ("fragments of one track", ("-movflags", "frag_keyframe+empty_moov+separate_moof+default_base_moof")),
    ):
        yield f"{name} mp4", _coded("mp4", *flags, span=LONG, sound_s=0.05)
    for offset in (5_000, 100_000, 1_700_000_000):
        late = ("-output_ts_offset", offset, "-avoid_negative_ts", "disabled")
        suffixes = ("mkv", "nut", "flv", "asf") if offset < 1e6 else ("mkv", "nut")
        for suffix in suffixes:
            yield f"starts at {offset} s {suffix}", _coded(suffix, *late, span=LONG, sound_s=0.07)
        sound = ("-vn", "-b:a", "32k", *late)
        yield f"sound starts at {offset} s webm", _coded("webm", *sound, span=LONG, **SOUND)
        if offset < 1e6:
            yield f"sound starts at {offset} s ogg", _coded("ogg", *sound, span=LONG, correlation=0.85, **SOUND)
        yield f"fragments start at {offset} s mp4", _coded("mp4", *FRAGMENTED, *late[:2], span=LONG, sound_s=0.05)


def _edits() -> Iterator[tuple[str, Builder]]:
    def case(
        spans: tuple[tuple[float | None, float], ...],
        *more: object,
        suffix: str = "mp4",
        rate: int = 1,
        **right: object,
    ) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", *LONG, *more, gop=50)
            (folder / f"a.{suffix}").write_bytes(edited(whole.read_bytes(), spans, rate))
            return folder / f"a.{suffix}", Right(**{"sound_s": 0.05, "correlation": 0.85, **right})  # type: ignore[arg-type]

        return build

    two = {"parts": ((2, 9.8),), "moved": ((5.2, 4.2),)}
    for suffix in ("mp4", "mov"):
        yield f"edits leave out the middle {suffix}", case(((0, 3.2), (7.4, 12)), suffix=suffix, **two)
    b_pictures = ("-preset", "medium", "-bf", 3)
    yield "edits leave out the middle, b pictures mp4", case(((0, 3.2), (7.4, 12)), *b_pictures, **two)
    yield "edits exchange two halves mp4", case(((6, 12), (0, 6)), parts=(LONG,), moved=((2, 6), (8, -6)))
    three = {"parts": ((2, 9),), "moved": ((2, 1), (4, 3), (6, 5))}
    yield "edits of three pieces mp4", case(((1, 3), (5, 7), (9, 12)), **three)
    yield "an edit trims both ends mp4", case(((2.6, 7.7),), parts=((4.6, 9.7),))
    said = {"parts": ((2, 16),), "skip": ((0, 99),), "length_s": 99}
    yield "an edit pauses in the middle mp4", case(((0, 3), (None, 2), (3, 12)), notes=("pauses",), **said)
    yield "an edit at twice the speed mp4", case(((0, 12),), rate=2, parts=(LONG,), notes=("speed",))


CASES = (_codecs, _broadcasts, _waves, _phases, _blank, _holes, _lengths, _edits)
