"""Moments as one CSV table of markers, for spreadsheets and scripts: times as timecode and seconds; answers
about whole videos are rows with `scope` video."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from pipeline.export.base import Format
from pipeline.export.moments import Video, line
from pipeline.spreadsheet import safe

COLUMNS = (
    *("file", "marker", "description", "in", "out", "duration_frames", "frame_rate"),
    *("start_s", "end_s", "question_id", "answer", "probability", "scope"),
)


def _write(videos: Sequence[Video]) -> bytes:
    out = io.StringIO(newline="")
    table = csv.writer(out)
    table.writerow(COLUMNS)
    for video in videos:
        clock = video.counted()
        for scope, moment in (*(("clip", one) for one in video.moments), *(("video", one) for one in video.whole)):
            first, after = clock.span(moment.start_s, moment.end_s)
            probability = "" if moment.probability is None else f"{moment.probability:.4f}"
            table.writerow(
                [
                    *(_cell(video.key), _cell(moment.title), _cell(moment.note)),
                    *(clock.timecode(first), clock.timecode(after), after - first, f"{float(clock.rate):.6g}"),
                    *(f"{moment.start_s:.6f}", f"{moment.end_s:.6f}"),
                    *(_cell(moment.question_id), _cell(moment.answer), probability, scope),
                ]
            )
    return out.getvalue().encode()


def _cell(text: str) -> str:
    return safe(line(text, 10_000))


CSV_MARKERS = Format(
    "one CSV table of all videos, with timecodes and seconds", ".csv", _write, True, True, holds_whole=True
)
