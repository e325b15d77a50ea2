"""Places pieces of audio by their container times to make one clip's samples.

Promises: a gap in the times is a gap in the audio, exact to the sample if times are steady; times that jitter around
a steady line are read as that line, and nothing is cut or inserted for them. Knows nothing about ffmpeg or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
"""Hz, as the audio encoders of the supported families need."""

STEP_S = 0.008
"""Times further off the line than this (seconds) start a new line: a gap, an overlap, or accumulated drift."""

STEADY_S = 0.002
"""Jitter below this (seconds) is rounding: some containers count milliseconds."""

JITTER_S, JITTER_LASTS_S = 0.15, 2.0
"""A step of up to this size that is reversed within this time (seconds) is jitter: late or early time stamps."""

STRAYS_LAST_S = 1.0
"""Damaged times last no longer (seconds): a broadcast states one time for up to half a second."""

WANDER_S = 0.3
"""Times that drift to and fro by up to this (seconds), without a step, are jitter about a line, too; what drifts one
way is another clock."""

RAMP_S = 0.0007
"""Steps between pieces that differ by less (seconds) are equal."""

LATE_SHARE = 0.37
"""If no two time stamps agree, this share is assumed to be early: between none and half, which cannot be told apart."""

MEDIAN_PIECES = 15
"""With jitter, the line is the median over this many pieces on either side: 0.3 s of AAC."""

GAP_S = 0.02
"""Shorter silence between two pieces (seconds) is not counted."""

SILENT_RUN_S = 0.5
SILENT_LEVEL = 2.0**-15
"""Digital silence: no sample reaches one step of 16 bits for this long (seconds)."""

Samples = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]


Placed = tuple[Samples, npt.NDArray[np.bool_]]
"""A clip's samples, and the mask of those that the track has."""


@dataclass(frozen=True, eq=False)
class Sound:
    """The decoded audio of one track: samples, and the container time of each piece."""

    samples: Samples
    starts: Times
    """(pieces,) float64, seconds from the clip's start."""
    lengths: npt.NDArray[np.int64]
    """(pieces,) samples in each piece."""


def placed(sound: Sound, count: int) -> Placed:
    """(count,) float32 samples of the clip, and the (count,) mask of those that the track has."""
    clip, has = np.zeros(count, np.float32), np.zeros(count, np.bool_)
    written = int(np.searchsorted(np.cumsum(sound.lengths), len(sound.samples), side="right"))
    pieces = min(len(sound.starts), written)
    if not pieces:
        return clip, has
    lengths = sound.lengths[:pieces]
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    passed_s = offsets / SAMPLE_RATE
    shifts = _without_strays(sound.starts[:pieces] - passed_s, passed_s)
    shifts = _lines(shifts, shifts + passed_s)
    edges = np.flatnonzero(np.diff(shifts, prepend=np.nan) != 0)
    for first, end in zip(edges, [*edges[1:], pieces], strict=True):
        begin = round(float(shifts[first]) * SAMPLE_RATE) + int(offsets[first])
        source = sound.samples[offsets[first] : offsets[end - 1] + lengths[end - 1]]
        lost = max(0, -begin)
        source, begin = source[lost:], begin + lost
        source = source[: max(0, count - begin)]
        clip[begin : begin + len(source)] = source
        has[begin : begin + len(source)] = True
    return clip, has


def mean(tracks: Sequence[Placed], weights: Sequence[int]) -> Placed:
    """The mean over all channels of several tracks; `weights` are their channel counts."""
    if len(tracks) == 1:
        return tracks[0]
    clip = np.average([clip for clip, _ in tracks], axis=0, weights=weights).astype(np.float32)
    return clip, np.logical_or.reduce([has for _, has in tracks])


def runs(marked: npt.NDArray[np.bool_], least_s: float) -> list[tuple[float, float]]:
    """(begin, end) in seconds of the runs of marked samples of at least that length."""
    edges = np.flatnonzero(np.diff(marked, prepend=False, append=False)).reshape(-1, 2)
    return [(a / SAMPLE_RATE, b / SAMPLE_RATE) for a, b in edges if b - a >= least_s * SAMPLE_RATE]


def silence_s(clip: Samples, has: npt.NDArray[np.bool_]) -> float:
    """Seconds of digital silence, and of no sound at all."""
    quiet = np.zeros_like(has)
    for begin, end in runs(~has | (np.abs(clip) < SILENT_LEVEL), SILENT_RUN_S):
        quiet[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = True
    for begin, end in runs(~has, GAP_S):
        quiet[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = True
    return round(float(quiet.sum()) / SAMPLE_RATE, 6)


def _lines(shifts: Times, times: Times) -> Times:
    """(pieces,) shift in seconds of each piece: constant along one line of time.

    `shifts` are the container's times minus those of audio without gaps, `times` the container's times. A step that
    stays is a gap or an overlap; one that is soon reversed is jitter.
    """
    if _wanders(shifts):
        return np.full_like(shifts, np.median(shifts))
    shifts = _without_ramps(shifts)
    steps = np.abs(np.diff(shifts))
    if len(steps) >= MEDIAN_PIECES and float(np.median(steps)) > STEADY_S:
        return _smooth_lines(shifts)
    found = np.empty_like(shifts)
    line, begin = float(shifts[0]), 0
    known: list[float] = []  # how late packets were stamped before
    until = 0  # pieces before this one are temporarily off the line
    for piece, shift in enumerate(shifts):
        step = float(shift) - line
        if abs(step) > STEP_S and piece >= until:
            end = int(np.searchsorted(times, times[piece] + JITTER_LASTS_S, side="right"))
            back = np.flatnonzero((shifts[piece:end] - line) * np.sign(step) <= STEP_S)
            if not len(back) and end == len(shifts) and any(abs(step - late) < STEP_S for late in known):
                until = end  # the audio ends among late pieces
            elif abs(step) > JITTER_S or not len(back):
                line, begin = float(shift), piece
            elif step < 0 and times[piece] - times[begin] < JITTER_LASTS_S:
                # Packets are stamped late, hardly ever early: the line is below, and its beginning was late.
                line = float(shifts[piece : piece + int(back[0])].min())
                found[begin:piece] = line
                known.append(-step)
            else:
                until = piece + int(back[0])
                known.append(step)
        found[piece] = line
    return found


def _without_strays(shifts: Times, passed_s: Times) -> Times:
    """The shifts without damaged times: pieces far off the line, behind which it goes on as if they were on it, and
    first ones that are said to come later than those behind them."""
    found = shifts.copy()
    first = shifts[: int(np.searchsorted(passed_s, STRAYS_LAST_S, side="right"))]
    earlier = np.flatnonzero(first[0] - first > JITTER_S)
    if len(earlier):
        found[: earlier[0]] = shifts[earlier[0]]
    piece = 1
    while piece < len(shifts):
        back = piece
        if abs(shifts[piece] - found[piece - 1]) > JITTER_S:
            end = int(np.searchsorted(passed_s, passed_s[piece] + STRAYS_LAST_S, side="right"))
            on_line = np.flatnonzero(np.abs(shifts[piece:end] - found[piece - 1]) <= STEP_S)
            back = piece + int(on_line[0]) if len(on_line) else piece
            found[piece:back] = found[piece - 1]
        piece = back + 1
    return found


def _wanders(shifts: Times) -> bool:
    """Whether the shifts drift to and fro, in steps too small for a gap."""
    width = float(np.ptp(shifts))
    if not STEP_S < width <= WANDER_S or float(np.abs(np.diff(shifts)).max()) > STEP_S:
        return False
    pieces = np.arange(len(shifts))
    straight = np.polyval(np.polyfit(pieces, shifts, 1), pieces)
    return float(np.ptp(shifts - straight)) > width / 2


def _without_ramps(shifts: Times) -> Times:
    """Remove ramps: times extrapolated at a wrong rate from one true time stamp all get that one's shift.

    libav extrapolates like this from a broadcast packet's only time stamp after the sample rate has changed.
    """
    found = shifts.copy()
    steps = np.diff(shifts)
    for piece in range(1, len(steps)):
        if abs(steps[piece]) > STEADY_S and abs(steps[piece] - steps[piece - 1]) < RAMP_S:
            start = found[piece - 1] if found[piece - 1] != shifts[piece - 1] else shifts[piece - 1]
            found[piece] = found[piece + 1] = start
    return found


def _smooth_lines(shifts: Times) -> Times:
    """The shifts if hardly two neighbours agree: a line through the middle."""
    found = np.empty_like(shifts)
    level = _medians(shifts)
    tolerance = max(STEP_S, 2.5 * float(np.median(np.abs(shifts - level))))
    begin, total = 0, float(level[0])
    for piece in range(1, len(shifts) + 1):
        if piece < len(shifts) and abs(float(level[piece]) - total / (piece - begin)) <= tolerance:
            total += float(level[piece])
            continue
        found[begin:piece] = np.quantile(shifts[begin:piece], LATE_SHARE)
        begin, total = piece, float(level[piece]) if piece < len(shifts) else 0.0
    return found


def _medians(values: Times) -> Times:
    """(n,) running median over the neighbours on both sides."""
    around = np.pad(values, MEDIAN_PIECES, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(around, 2 * MEDIAN_PIECES + 1)
    medians: Times = np.median(windows, axis=1)
    return medians
