"""Frames and timecodes of a file: its rate as a fraction, where its timecode starts, whether frames are dropped.

Promises: a time becomes the border between two frames that is nearest to it, at the file's own exact rate, so moments
that touch share no frame; timecode counts from the file's own start, in drop-frame where that start is written so.
Knows nothing about moments.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from timecode import Timecode

from omnidrop.errors import UserError

NOMINAL = (24, 25, 30, 48, 50, 60, 100, 120)
"""Frames in a second of the timelines that editors have. 24, 30, 48, 60 and 120 are also run at 1000/1001 of that."""
SLACK = 3e-4
"""How far a file's average rate may be off a standard one: a third of what tells 29.97 from 30."""
_TIMECODE = re.compile(r"(\d\d):([0-5]\d):([0-5]\d)([:;.,])(\d{2,3})")


class TimingError(UserError):
    """A file whose frames cannot be counted, or a timecode that does not fit its rate."""

    error_class = "timing"


@dataclass(frozen=True)
class Clock:
    """How the frames of one file are counted."""

    rate: Fraction
    start_frame: int = 0
    """The timecode of the file's first frame, as a count of frames."""
    drop_frame: bool = False

    def frame(self, seconds: float) -> int:
        """The frame that begins nearest to `seconds`, counted from the file's first."""
        return math.floor(Fraction(seconds).limit_denominator(1_000_000) * self.rate + Fraction(1, 2))

    def span(self, start_s: float, end_s: float) -> tuple[int, int]:
        """First frame and the frame after the last; a moment has at least one."""
        first = self.frame(start_s)
        return first, max(first + 1, self.frame(end_s))

    def timecode(self, frame: int) -> str:
        """Timecode of a frame counted from the file's first: `01:00:10:00`, `01:00:10;00` in drop-frame."""
        # The library counts frames from 1.
        return str(_timecode(self.rate, self.drop_frame, frames=self.start_frame + frame + 1))

    @property
    def is_editable(self) -> bool:
        """Whether editors have timelines of this rate."""
        return round(self.rate) in NOMINAL

    @property
    def start(self) -> str:
        """Timecode of the file's first frame."""
        return self.timecode(0)


def clock_of(rate: float | None, start: str | None = None) -> Clock:
    """The clock of a file with an average rate and the timecode that it starts at. Raises TimingError."""
    if rate is None or not rate > 0:
        raise TimingError("it has no video, so it has no frame rate; give one, for example --rate 25")
    standard = standard_rate(rate)
    if standard is None:
        raise TimingError(
            f"it has {rate:g} frames per second on average (a variable rate?), which has no timecode; give the "
            "frame rate of your project, for example --rate 25"
        )
    if start is None:
        return Clock(standard)
    match = _TIMECODE.fullmatch(start.strip())
    if match is None:
        raise TimingError(f"start timecode {start!r}: write hours:minutes:seconds:frames, or ;frames for drop-frame")
    drop = match[4] != ":"
    nominal = round(standard)
    if drop and (nominal % 30 or standard.denominator == 1):
        raise TimingError(
            f"start timecode {start}: drop-frame needs 29.97, 59.94 or 119.88 frames per second, this file has {rate:g}"
        )
    if int(match[5]) >= nominal or int(match[1]) >= 24:
        raise TimingError(f"start timecode {start}: frames go from 00 to {nominal - 1} here, hours from 00 to 23")
    if drop and match[3] == "00" and int(match[2]) % 10 and int(match[5]) < nominal // 15:
        raise TimingError(f"start timecode {start}: drop-frame skips this number")
    written = (
        ":".join((*match.group(1, 2, 3), match[5])) if not drop else f"{':'.join(match.group(1, 2, 3))};{match[5]}"
    )
    return Clock(standard, _timecode(standard, drop, start_timecode=written).frame_number, drop)


def standard_rate(rate: float) -> Fraction | None:
    """The rate that `rate` stands for: 29.97 is 30000/1001, and whole numbers are what they are. Else None."""
    for nominal in NOMINAL:
        ntsc = Fraction(nominal * 1000, 1001)
        if nominal % 25 and abs(rate / float(ntsc) - 1) < SLACK:
            return ntsc
    whole = round(rate)
    return Fraction(whole) if whole and abs(rate / whole - 1) < SLACK else None


def _timecode(rate: Fraction, drop: bool, **what: int | str) -> Timecode:
    if rate.denominator == 1:
        return Timecode(str(round(rate)), **what)
    return Timecode(f"{float(rate):.3f}" if round(rate) in (24, 48) else f"{float(rate):.2f}",
                    force_non_drop_frame=not drop, **what)  # fmt: skip
