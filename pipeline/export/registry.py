"""The formats that moments can be written in: one file and one line each."""

from __future__ import annotations

from pipeline.export.base import Format
from pipeline.export.chapters import CHAPTERS
from pipeline.export.csv_markers import CSV_MARKERS
from pipeline.export.edl import EDL, EDL_LOC
from pipeline.export.label_studio import LABEL_STUDIO
from pipeline.export.otio import OTIO
from pipeline.export.subtitles import SRT, VTT

FORMATS: dict[str, Format] = {
    "vtt": VTT,
    "srt": SRT,
    "chapters": CHAPTERS,
    "csv-markers": CSV_MARKERS,
    "edl": EDL,
    "edl-loc": EDL_LOC,
    "otio": OTIO,
    "label-studio": LABEL_STUDIO,
}
