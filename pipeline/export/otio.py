"""Moments as an OpenTimelineIO timeline: the file as one clip with a marker a moment; answers about the whole
video stand in the clip's metadata. Written by its own library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config.locations import is_s3
from pipeline.export.base import Format
from pipeline.export.moments import ExportError, Moment, Video, line
from workers.media.opening import local_path


def _write(videos: Sequence[Video]) -> bytes:
    try:
        import opentimelineio as otio
    except ImportError as error:
        raise ExportError("--to otio needs OpenTimelineIO; run pip install 'omnidrop[otio]'") from error
    (video,) = videos
    clock = video.counted()
    rate, start = float(clock.rate), clock.start_frame

    def span(first: int, after: int) -> otio.opentime.TimeRange:
        return otio.opentime.TimeRange(
            otio.opentime.RationalTime(start + first, rate), otio.opentime.RationalTime(after - first, rate)
        )

    ends = [clock.span(moment.start_s, moment.end_s)[1] for moment in video.moments]
    whole = span(0, max([1, clock.frame(video.duration_s or 0.0), *ends]))
    url = video.uri if is_s3(video.uri) else Path(local_path(video.uri)).as_uri()
    clip = otio.schema.Clip(line(video.key), otio.schema.ExternalReference(url, whole), whole)
    colours = [name for name in vars(otio.schema.MarkerColor) if name.isupper() and name not in ("BLACK", "WHITE")]
    titles = list(dict.fromkeys(moment.title for moment in video.moments))
    for moment in video.moments:
        marker = otio.schema.Marker(
            moment.title,
            span(*clock.span(moment.start_s, moment.end_s)),
            colours[titles.index(moment.title) % len(colours)],
            {"omnidrop": _facts(moment)},
        )
        marker.comment = moment.note
        clip.markers.append(marker)
    if video.whole:
        clip.metadata["omnidrop"] = {"whole": [_facts(one) for one in video.whole]}
    kind = otio.schema.TrackKind.Video
    timeline = otio.schema.Timeline(line(video.key), global_start_time=otio.opentime.RationalTime(start, rate))
    timeline.tracks.append(otio.schema.Track("V1", [clip], kind=kind))
    return str(otio.adapters.write_to_string(timeline, "otio_json")).encode()


def _facts(moment: Moment) -> dict[str, object]:
    facts = {
        "question_id": moment.question_id,
        "question": line(moment.question),
        "answer": line(moment.answer),
        "probability": moment.probability,
        "start_s": moment.start_s,
        "end_s": moment.end_s,
    }
    return {name: value for name, value in facts.items() if value is not None}


OTIO = Format("an OpenTimelineIO timeline with markers, for editors", ".otio", _write, False, True, holds_whole=True)
