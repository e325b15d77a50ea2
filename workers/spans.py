"""Where a stretch of time is cut every so many seconds.

Promises: the same numbers give the same spans, on every machine and before all of a file is here. Knows nothing about
files.
"""

from __future__ import annotations


def fixed_spans(duration_s: float, length_s: float, step_s: float, shortest_s: float) -> list[tuple[float, float]]:
    """One of `length_s` every `step_s`, in order, in whole microseconds, covering all of it; a rest shorter than
    `shortest_s` joins the one before it."""
    spans: list[tuple[float, float]] = []
    while True:
        begin = len(spans) * step_s
        if begin + length_s >= duration_s:
            if spans and duration_s - begin < shortest_s:
                spans[-1] = (spans[-1][0], round(duration_s, 6))
            else:
                spans.append((round(begin, 6), round(duration_s, 6)))
            return spans
        spans.append((round(begin, 6), round(begin + length_s, 6)))
