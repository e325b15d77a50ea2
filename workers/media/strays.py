"""Finds pictures whose times are damaged among those that come out of a decoder, and when they must be shown.

Promises: a decoder gives pictures in the order in which they are shown, so what is out of order has a damaged time; of
more than a few in a row nothing is said, since time may truly begin again. Knows nothing about ffmpeg or files.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

import numpy as np

from workers.media.sound import Times

MOST_STRAYS = 50
"""So many frames in a row may have damaged times: what shares a packet of a broadcast, which states one time for all of
them."""

MOST_MENDED = 100
"""Pictures of a clip whose times are mended, at most: each lengthens a filter."""

STRAY_S = 0.1
"""What comes earlier than a picture before it by less (seconds) is not out of order."""


def mended(times: Times) -> dict[int, float]:
    """By how much to move the time of each picture that is out of order, in seconds, by its number; `times` as they
    come out of a decoder."""
    if len(times) < 3 or float(np.diff(times).min()) >= -STRAY_S:
        return {}
    right = _longest_in_order(times)
    step_s = float(np.median(np.diff(times[right]))) if len(right) > 1 else 0.0
    moves: dict[int, float] = {}
    for before, after in pairwise([-1, *right, len(times)]):
        if after - before - 1 > MOST_STRAYS:
            return {}
        for number in range(before + 1, after):
            by_s = _between(times, before, after, number, step_s) - float(times[number])
            if abs(by_s) > STRAY_S:
                moves[number] = by_s
    return moves if len(moves) <= MOST_MENDED else {}


def _between(times: Times, before: int, after: int, number: int, step_s: float) -> float:
    """When a picture is shown between two others: as soon as pictures follow each other, and evenly where less is
    left."""
    if before < 0:
        return float(times[after]) - (after - number) * step_s
    if after < len(times):
        step_s = min(step_s, float(times[after] - times[before]) / (after - before))
    return float(times[before]) + (number - before) * step_s


def _longest_in_order(times: Times) -> list[int]:
    """Numbers of the most pictures whose times do not descend."""
    ends: list[float] = []
    numbers: list[int] = []
    previous: list[int] = []
    for number, time in enumerate(times.tolist()):
        at = bisect_right(ends, time)
        previous.append(numbers[at - 1] if at else -1)
        ends[at : at + 1], numbers[at : at + 1] = [time], [number]
    found = []
    at = numbers[-1]
    while at >= 0:
        found.append(at)
        at = previous[at]
    return found[::-1]
