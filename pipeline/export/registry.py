"""The formats that moments can be written in: one file and one line each, imported when asked for."""

from __future__ import annotations

import difflib
import pkgutil

from omnidrop.errors import UserError
from pipeline.export.base import Format

FORMATS = {
    "vtt": "subtitles.VTT",
    "srt": "subtitles.SRT",
    "chapters": "chapters.CHAPTERS",
    "csv-markers": "csv_markers.CSV_MARKERS",
    "edl": "edl.EDL",
    "edl-loc": "edl.EDL_LOC",
    "otio": "otio.OTIO",
    "label-studio": "label_studio.LABEL_STUDIO",
}
"""Name and place in this package."""


def find_format(name: str) -> Format:
    """The format of that name. Raises UserError."""
    if name not in FORMATS:
        close = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f" did you mean {close[0]}?" if close else ""
        raise UserError(f"--to {name}: there is no such format;{hint} there are iceberg, {', '.join(FORMATS)}")
    form = pkgutil.resolve_name(f"pipeline.export.{FORMATS[name]}")
    assert isinstance(form, Format)
    return form
