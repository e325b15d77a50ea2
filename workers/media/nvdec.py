"""Decoding on an NVIDIA GPU through ffmpeg's hardware path: whether this machine can, and with what confinement.

Promises: the GPU decodes only codecs whose standards define every output value, and only after it has decoded this
module's samples; with `auto`, only if its frames equalled the CPU's exactly. If it cannot decode a clip completely or
reports an error, the CPU decodes it (see `clip_reader`). Written without a GPU; it has never run on one. Knows nothing
about clips.

A driver needs read and write access to its devices, the whole address space and sockets: the child runs without the
seccomp filter and without a memory limit, and may read `/sys` and parts of `/proc`. Landlock still blocks all other
files. The run's record says so: `landlock-7+nvdec`.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import ffmpeg

from workers.errors import DecoderMissing
from workers.media.confinement import Level, level
from workers.media.ffmpeg import Limits, anonymous_file, find_ffmpeg, hwaccels, input_url, run, untrusted_input
from workers.records import DecodeSettings, MediaInfo

CODECS = ("h264", "hevc")
"""Codecs that have a sample. MPEG-2 and MPEG-4 leave the lowest bits to the decoder; VP9 and AV1 can be added with a
sample each."""

SAMPLES = Path(__file__).with_name("samples")
"""20 frames of 256 x 144 per codec, B frames included."""

CHECK_S = 60.0
"""Time limit in seconds: an idle GPU takes seconds to wake."""

OPEN_FILES = 512
"""Open files: a driver opens its devices many times."""

_DEVICES = "/dev"
_NODE = re.compile(r"nvidia(\d+|ctl|-uvm|-uvm-tools)")
_READ_BY_DRIVER = ("/sys", "/proc/self", "/proc/driver", *(f"/proc/{n}" for n in ("devices", "modules", "cpuinfo")))
_PLAIN = "|".join(f"yuv{n}p{bits}" for bits in ("", "10le", "12le") for n in (420, 422, 444))


@dataclass(frozen=True)
class Card:
    """The result of trying this machine's GPU."""

    problem: str = ""
    """Why it cannot decode; empty if it can."""
    difference: str = ""
    """How its frames of the samples differ from the CPU's; empty if they are equal."""


def require(settings: DecodeSettings) -> None:
    """Raise DecoderMissing if `clips.decoder` is nvdec and this machine cannot use a GPU."""
    if settings.decoder == "nvdec" and (problem := card().problem):
        raise DecoderMissing(
            f"clips.decoder is nvdec, and this machine cannot decode with it: {problem}. Set clips.decoder to auto or "
            "cpu, or run on a machine with an NVIDIA card, its driver's libcuda and libnvcuvid, and an ffmpeg that was "
            "built with cuda"
        )


def decodes_here(settings: DecodeSettings) -> bool:
    """Whether this machine decodes on its GPU with these settings."""
    return settings.decoder != "cpu" and not _why_not(settings)


def takes(info: MediaInfo, settings: DecodeSettings) -> bool:
    """Whether the GPU decodes this file's video."""
    return info.video_codec in CODECS and not info.interlaced and decodes_here(settings)


def said(settings: DecodeSettings) -> str:
    """Which decoder this machine uses and why, for the run's record; empty if the settings say CPU."""
    if settings.decoder == "cpu":
        return ""
    why_not = _why_not(settings)
    return f"video on the CPU ({why_not})" if why_not else f"{' and '.join(CODECS)} on NVDEC, other codecs on the CPU"


def level_here(settings: DecodeSettings) -> Level:
    """The confinement of the least confined process that decodes with these settings."""
    return _level() if decodes_here(settings) else level()


def limits(given: Limits) -> Limits:
    """The limits of a child that uses the GPU."""
    return replace(given, memory_bytes=0, open_files=OPEN_FILES, devices=_nodes(), device_reads=_READ_BY_DRIVER)


def input_options() -> dict[str, object]:
    """ffmpeg input options. Decoded frames come back to main memory."""
    cards = sum(name[-1].isdigit() for name in _nodes())
    return {"hwaccel": "cuda", "hwaccel_device": os.getpid() % max(1, cards)}


PLAIN_FORMAT = {"pix_fmts": _PLAIN}
"""Arguments of the `format` filter: the CPU decoders' pixel formats; converting the GPU's formats to these is exact."""


def card() -> Card:
    """This machine's GPU, tried once for each ffmpeg."""
    return _tried(find_ffmpeg())


def _why_not(settings: DecodeSettings) -> str:
    if settings.confinement == "landlock+seccomp":
        return f"execution.confinement is {settings.confinement}, and a card needs less"
    found = card()
    return found.problem or (found.difference if settings.decoder == "auto" else "")


def _level() -> Level:
    return Level(level().landlock, seccomp=False, nvdec=True)


def _nodes() -> tuple[str, ...]:
    return tuple(sorted(f"{_DEVICES}/{name}" for name in os.listdir(_DEVICES) if _NODE.fullmatch(name)))


@functools.cache
def _tried(program: str) -> Card:
    if not any(name[-1].isdigit() for name in _nodes()):
        return Card("there is no NVIDIA device (/dev/nvidia0)")
    if "cuda" not in hwaccels():
        return Card(f"{program} was built without cuda")
    different = []
    for codec in CODECS:
        shown = {}
        for is_on_card in (False, True):
            shown[is_on_card], problem = _decoded(program, codec, is_on_card)
            if problem:
                return Card(f"the sample of {codec} is not decoded{' on the card' if is_on_card else ''}: {problem}")
        if shown[False] != shown[True]:
            different.append(codec)
    what = f"its pictures of the sample of {' and '.join(different)} are not those of the CPU"
    return Card(difference=what if different else "")


def _decoded(program: str, codec: str, is_on_card: bool) -> tuple[bytes, str]:
    """A sample's frames and the problem, if any. Unlike for a clip, there is no fallback to the CPU."""
    sample = SAMPLES / f"{codec}.mp4"
    more = input_options() | {"hwaccel_output_format": "cuda"} if is_on_card else {}
    stream = ffmpeg.input(input_url(sample), **untrusted_input("mov"), **more)
    if is_on_card:
        stream = stream.filter("hwdownload").filter("format", "nv12").filter("format", **PLAIN_FORMAT)
    with anonymous_file("pictures") as pictures:
        output = stream.output(f"pipe:{pictures}", f="rawvideo", pix_fmt="yuv420p")
        bounds = Limits(CHECK_S, 16 << 20)
        done = run(
            ffmpeg.compile(output.global_args("-hide_banner", "-nostats", "-loglevel", "error"), cmd=program),
            limits=limits(bounds) if is_on_card else bounds,
            pass_fds=(pictures,),
            reads=(sample,),
        )
        shown = os.pread(pictures, 16 << 20, 0)
    if done.timed_out:
        return shown, f"it takes longer than {CHECK_S:g} s"
    if done.returncode or done.stderr.strip() or not shown:
        said = next((line.strip() for line in done.stderr.splitlines() if line.strip()), "it says nothing")
        return shown, re.sub(r" @ 0x[0-9a-f]+", "", said)[:200]
    return shown, ""
