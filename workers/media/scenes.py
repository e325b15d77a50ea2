"""Finds the scene cuts of a file in one cheap low-resolution pass.

Promises: ascending cut times in seconds from `MediaInfo.start_s`; the same file and threshold give the same cuts; the
pass is confined and limited like all decoding. Knows nothing about clips or plans.
"""

from __future__ import annotations

import math
import os
import re

import ffmpeg

from workers.errors import DecodeFailed, DecodeTimeout
from workers.media.blocks import InBlocks, Readable, run_over
from workers.media.confinement import MAX_ALLOC_BYTES
from workers.media.ffmpeg import Limits, anonymous_file, find_ffmpeg, input_url, untrusted_input
from workers.records import MediaInfo, Segment

PASS_FPS = 5.0
"""Frames per second compared: cuts are exact to 0.2 s. Every frame would cost five times more and find flashes."""
PASS_WIDTH = 96
RUN_UP_S = 2.0
"""Seconds before a section that are examined too, and as many again that are decoded."""
LEAST_STRETCH_S = 10.0
SLOWEST = 2.0
"""Time limit: this many times the file's duration, plus a minute. It usually takes a twentieth."""
MOST_CUTS = 100_000
LIST_BYTES = 64 * MOST_CUTS

_TIME = re.compile(rb"pts_time:(-?[0-9.]+(?:e[-+]?[0-9]+)?)")


def find_scene_cuts(path: Readable, info: MediaInfo, threshold: float) -> tuple[float, ...]:
    """Times at which a new scene begins, in seconds of content; empty for a file without video. The starts of the
    file's continuous parts are not included.

    `threshold` is ffmpeg's scene score, 0 to 1: 0.3 finds hard cuts. Raises DecodeTimeout, and DecodeFailed if nothing
    could be read; damage later in the file only ends the list early.
    """
    cuts: list[float] = []
    for part in info.parts:
        if part.info.has_video:
            cuts += (round(part.start_s + cut, 3) for cut in _cuts_of(path, part, threshold))
    return tuple(cuts)


def _cuts_of(path: Readable, part: Segment, threshold: float) -> tuple[float, ...]:
    """Cuts of one part, in seconds from its beginning."""
    length_s = part.end_s - part.start_s
    step_s = length_s
    if isinstance(path, InBlocks):
        # An object in blocks is read one section at a time, which leaves room in the cache for others.
        step_s = max(LEAST_STRETCH_S, length_s * path.cache.max_bytes / path.size / 8)
    times: set[float] = set()
    for number in range(math.ceil(length_s / step_s)):
        times |= _cuts_in(path, part, threshold, number * step_s, min((number + 1) * step_s, length_s))
    return tuple(sorted(time for time in times if 0 < time < length_s))


def _cuts_in(path: Readable, part: Segment, threshold: float, from_s: float, to_s: float) -> set[float]:
    """Cuts in a section of a part."""
    info, length_s = part.info, part.end_s - part.start_s
    # Finding a cut needs the frame before it.
    begins_s = max(0.0, math.floor(from_s * PASS_FPS) / PASS_FPS - RUN_UP_S)
    seek = {"noaccurate_seek": None, "seek_timestamp": 1, "ss": f"{part.pts_s + begins_s - RUN_UP_S:.6f}"}

    def arguments(opened: str | os.PathLike[str]) -> list[str]:
        options = untrusted_input(info.container) | (seek if begins_s else {})
        given = ffmpeg.input(input_url(opened, part.video_bytes, part.head_bytes), **options)
        stream = given[f"v:{info.video_stream or 0}"]
        stream = stream.filter("setpts", f"PTS-{part.pts_s:.6f}/TB")
        stream = stream.filter("fps", fps=PASS_FPS, start_time=f"{begins_s:g}")
        # At a time stamp that jumps by hours, the fps filter would fill the hours.
        stream = stream.filter("trim", end_frame=math.ceil((to_s - begins_s) * PASS_FPS) + 1)
        stream = stream.filter("scale", PASS_WIDTH, -2, flags="fast_bilinear")
        stream = stream.filter("select", f"gt(scene,{threshold:.6f})")
        stream = stream.filter("metadata", mode="print", key="lavfi.scene_score", file=f"pipe:{cuts}")
        output = stream.output("pipe:1", f="null")
        output = output.global_args("-hide_banner", "-nostats", "-loglevel", "error", "-copyts")
        compiled: list[str] = ffmpeg.compile(output.global_args("-max_alloc", str(MAX_ALLOC_BYTES)), cmd=find_ffmpeg())
        return compiled

    with anonymous_file("cuts") as cuts:
        limit_s = 60 + SLOWEST * info.duration_s
        limits = Limits(timeout_s=limit_s, file_bytes=LIST_BYTES)
        about = (begins_s / length_s, to_s / length_s)
        finished = run_over(path, arguments, limits=limits, pass_fds=(cuts,), about=about)
        if finished.timed_out:
            raise DecodeTimeout(f"scene detection took longer than {limit_s:.0f} s")
        found = _TIME.findall(os.pread(cuts, LIST_BYTES, 0))
    if finished.returncode and not found and not from_s:
        raise DecodeFailed(
            f"scene detection failed: {finished.stderr.strip().splitlines()[-1:] or ['ffmpeg said nothing']}"
        )
    return {time for time in (round(float(time), 3) for time in found) if from_s <= time < to_s}
