"""Moments as markers in an edit decision list (CMX 3600), in the two ways that editors read markers from one.

`edl` is Resolve's own form (Timelines > Import > Timeline Markers from EDL): an event a marker, with a line of colour,
name and length. `edl-loc` has the file as one event with `* LOC` comments, which Avid tools and OpenTimelineIO read;
Resolve would copy such comments into its notes, so neither form holds both. Answers about the whole video are comments
of that one event; in Resolve's form every comment belongs to a marker, so it has no place for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.export.base import Format
from pipeline.export.moments import Moment, Video, line

RESOLVE_COLOURS = (
    *("Blue", "Cyan", "Green", "Yellow", "Red", "Pink", "Purple", "Fuchsia"),
    *("Rose", "Lavender", "Sky", "Mint", "Lemon", "Sand", "Cocoa", "Cream"),
)
LOC_COLOURS = ("BLUE", "CYAN", "GREEN", "YELLOW", "RED", "MAGENTA", "WHITE", "BLACK")
NOTE_CHARS = 120


def _resolve(videos: Sequence[Video]) -> bytes:
    (video,) = videos
    clock = video.counted()
    lines = _head(video)
    for number, (moment, colour) in enumerate(_coloured(video, RESOLVE_COLOURS), start=1):
        first, after = clock.span(moment.start_s, moment.end_s)
        lines += [
            _event(number, "001", [clock.timecode(first), clock.timecode(first + 1)] * 2),
            f"{_note(moment)} |C:ResolveColor{colour} |M:{_plain(moment.title)} |D:{after - first}",
            "",
        ]
    return _bytes(lines)


def _locators(videos: Sequence[Video]) -> bytes:
    (video,) = videos
    clock = video.counted()
    ends = [clock.span(moment.start_s, moment.end_s)[1] for moment in video.moments]
    length = max([1, clock.frame(video.duration_s or 0.0), *ends])
    lines = [
        *_head(video),
        _event(1, "AX", [clock.timecode(0), clock.timecode(length)] * 2),
        f"* FROM CLIP NAME: {_plain(line(video.key))}",
        *(
            f"* LOC: {clock.timecode(clock.frame(moment.start_s))} {colour:7} {_plain(moment.title)}"
            for moment, colour in _coloured(video, LOC_COLOURS)
        ),
        *(f"* COMMENT: {_plain(line(one.title, 10_000))}" for one in video.whole),
    ]
    return _bytes(lines)


def _head(video: Video) -> list[str]:
    mode = "DROP FRAME" if video.counted().drop_frame else "NON-DROP FRAME"
    return [f"TITLE: {_plain(line(video.key))}", f"FCM: {mode}", ""]


def _event(number: int, reel: str, times: list[str]) -> str:
    return f"{number:03d}  {reel:8} V     C        {' '.join(times)}  "


def _note(moment: Moment) -> str:
    # A note that begins with a digit reads as an event, one that begins with a star as a comment.
    return f" {_plain(line(moment.question_id))} - {_plain(line(moment.note, NOTE_CHARS))}"


def _coloured(video: Video, colours: Sequence[str]) -> Iterator[tuple[Moment, str]]:
    """Each moment with its answer's colour, the same within a file."""
    titles = list(dict.fromkeys(moment.title for moment in video.moments))
    for moment in video.moments:
        yield moment, colours[titles.index(moment.title) % len(colours)]


def _plain(text: str) -> str:
    return text.replace("|", "¦")


def _bytes(lines: Sequence[str]) -> bytes:
    return ("\r\n".join(lines) + "\r\n").encode()


EDL = Format("markers for DaVinci Resolve, as it imports them from an EDL", ".edl", _resolve, False, True, True)
EDL_LOC = Format(
    *("an EDL with `* LOC` comments, for Avid tools and OpenTimelineIO", ".edl", _locators, False, True, True),
    holds_whole=True,
)
