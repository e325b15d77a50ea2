"""Finds where time stamps in a file are continuous and where they run backwards or jump, from packets alone.

Promises: stretches of continuous time in file order, each with the byte ranges of its streams' packets; a single
damaged time stamp never starts a stretch; memory does not grow with the file. Knows nothing about tracks, clips or
containers, except whether the container's clock may jump by design. Runs in the probing process.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import av.error
from av.container import InputContainer

from workers.media._channels import Channels
from workers.media._shapes import Shapes
from workers.media.confinement import MAX_STREAMS

BACK_S = 0.5
"""If a stream's decoding times run backwards by more than this (seconds), a new stretch begins; less is jitter."""

BROADCAST_BACK_S = 0.12
"""The same for a broadcast, whose decoding times never run backwards by design."""

BROADCAST_GAP_S = 10.0
"""MPEG streams: a gap in all streams longer than this (seconds) is a clock jump, as in ffmpeg, not a pause."""

FILE_GAP_S = 60.0
"""Other containers: a gap is a frozen picture, unless video and audio both stop for longer than this (a pause)."""

CONFIRMING, MOST_WAITING = 3, 200
"""Packets with a time of their own that must follow a leap consistently (one damaged time stamp is none), and how many
are held back for that: a broadcast states one time for up to some 170 frames of sound."""

MOST_REORDERED, REORDERED_S = 17, 1.0
"""Pictures that may be coded between one and the next that is shown (no codec here reorders more), and for how long
(seconds) they may be in any case."""

MOST_STRETCHES = 1_000

FIRST_S = 2.0
"""In a recording's first seconds, a time that is followed by earlier ones is damaged: it is no recording of its own."""

AHEAD_S, MOST_STEPS = 1.0, 4
"""By more than this (seconds), and so many times the step before, a stream's last packets cannot be behind all others
without a third of them that confirms it."""

MARK_S, MOST_MARKS = 1.0, 4
"""Places that are remembered of each stream: so far apart (seconds), and how many."""

MOST_STOPS = 200
"""How often reading goes on after an error."""

LEAST_BYTES_PER_S = 16
"""A file with fewer bytes per second than this has a false duration, unless its packets confirm it."""

LONGEST_GAP_S, LONGEST_DECLARED_GAP_S = 600.0, 7200.0
"""In such a file, a time stamp after a longer gap is damaged: one flipped bit would make a day of clips out of 30 kB.
The higher limit applies if the declared duration covers it: slides of a lecture."""


_Mark = tuple[float, int]
"""Time and byte offset of a packet from which decoding can start."""


@dataclass
class Seen:
    """One stream's packets within a stretch."""

    start_s: float
    first_byte: int | None
    end_s: float
    last_byte: int | None = None
    step_s: float = 0.0
    lag_s: float = 0.0
    """How far its packets trail other streams' packets in the file, in seconds."""
    packets: int = 0
    stated: int = 0
    """How many of them state a time of their own."""
    is_first_start: bool = True
    """Whether the first packet is also the earliest."""
    beside: dict[int, tuple[_Mark, ...]] = field(default_factory=dict)
    """Where the other streams could be read from when this one began."""


@dataclass
class Stretch:
    """Continuous time: each stream's beginning and end, by stream index, in container seconds."""

    streams: dict[int, Seen] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    jumps_ahead: bool = False
    """Whether its times alone distinguish it from everything before it."""
    is_continued: bool = False
    """Whether some of its streams are those of the stretch before it, and the others are not."""

    @property
    def start_s(self) -> float:
        return min(seen.start_s for seen in self.streams.values())

    @property
    def end_s(self) -> float:
        return max(seen.end_s for seen in self.streams.values())

    def ends_s(self, kind: str) -> list[float]:
        """End times of the streams of a kind."""
        return [seen.end_s for index, seen in self.streams.items() if self.kinds[index] == kind]

    def last_byte(self, kind: str) -> int | None:
        """Byte offset of the last packet of a kind."""
        found = [s.last_byte for index, s in self.streams.items() if self.kinds[index] == kind]
        return max((byte for byte in found if byte is not None), default=None)

    def first_byte(self, kind: str) -> int | None:
        """Byte offset of the first packet of a kind."""
        found = [s.first_byte for index, s in self.streams.items() if self.kinds[index] == kind]
        return min((byte for byte in found if byte is not None), default=None)


_Packet = tuple[float | None, float, float, int | None]
"""Its order (None where it is not known), begin and length in seconds, and its place in the file."""


@dataclass(frozen=True)
class _Waiting:
    """A packet behind a leap of time, until enough of them confirm it."""

    order_s: float
    begin_s: float
    length_s: float
    byte: int | None
    ahead_s: float
    """The order that all streams had reached when it came."""


@dataclass
class _Stream:
    stretch: int
    last_s: float | None = None
    pending: list[_Waiting] = field(default_factory=list)
    trailing_s: dict[int, float] = field(default_factory=dict)
    """The least order of each other stream's packets since these began to wait."""
    late_s: list[tuple[float, int]] = field(default_factory=list)
    """(end in seconds, number of the packet) of pictures that are said to be shown much later than they are decoded:
    if as many are shown before one as can be, it is not true."""
    has_places: bool = False

    @property
    def is_confirmed(self) -> bool:
        """Whether enough of the waiting packets state a time: it is reckoned for what begins inside another's bytes, or
        lies on a page with others."""
        places = {one.byte for one in self.pending if one.byte is not None}
        stated = len(places) if self.has_places else len(self.pending)
        return stated >= CONFIRMING or len(self.pending) >= MOST_WAITING


@dataclass(frozen=True)
class Timeline:
    """All stretches, and how far one stream's packets trail another's in the file."""

    stretches: tuple[Stretch, ...]
    lag_s: float
    outliers: int
    """Packets whose times fit no stretch."""
    has_damaged_times: bool = False
    """Whether there are such, or pictures that are said to be shown when none can be."""
    shapes: tuple[Shapes, ...] = ()
    """What changes of the pictures of each stream, in container seconds."""
    channels: tuple[Channels, ...] = ()
    """The same of its sound."""
    present: frozenset[int] = frozenset()
    """The streams that have packets, with times or not."""
    end_byte: int = 0
    """About where the last packet that was read ends."""
    ahead_s: float = 0.0
    """How far the last packets of a stream are said to be behind all others, in seconds; they are no part of it."""


def scan(
    container: InputContainer, *, is_broadcast: bool, kinds: dict[int, str], size: int, declared_s: float
) -> Timeline:
    """Read every video and audio packet of an open container from its start.

    `kinds` are the streams that count, by index. Raises ValueError for more than `MOST_STRETCHES`.
    """
    reader, end_byte = _Scan(is_broadcast, dict(kinds), size, declared_s), 0
    present: set[int] = set()
    announced = len(container.streams)
    pictures = [s for s in container.streams.video if s.index in kinds and Shapes.can_read(s)]
    shapes = {s.index: Shapes(s) for s in pictures}
    sounds = {s.index: Channels() for s in container.streams.audio if s.index in kinds and Channels.can_read(s)}
    for packet in _packets(container):
        index = packet.stream_index
        if index >= announced and index not in reader.kinds and packet.stream.type in ("video", "audio"):
            reader.kinds[index] = packet.stream.type
        if is_broadcast and {packet.stream.type, reader.kinds.get(index)} == {"video", "audio"}:
            # New tables say that this number is of the other kind, but not from which packet on: the next one is.
            index += MAX_STREAMS
            if index not in reader.kinds:
                reader.kinds[index] = packet.stream.type
                continue
        if index not in reader.kinds or not packet.size or packet.time_base is None:
            continue
        present.add(index)
        begin = packet.pts if packet.pts is not None else packet.dts
        # Where pictures are not in the order of their times, nobody knows the decoding times of the first ones.
        order = begin if packet.dts is None and is_broadcast else packet.dts
        if begin is None:
            continue
        end_byte = max(end_byte, (packet.pos or 0) + packet.size)
        unit = float(packet.time_base)
        order_s = None if order is None else float(order) * unit
        begin_s, length_s = float(begin) * unit, float(packet.duration or 0) * unit
        if math.isfinite(begin_s + length_s + (order_s or 0.0)):
            reader.take(index, (order_s, begin_s, length_s, packet.pos))
            if packet.is_keyframe and packet.pos is not None:
                reader.mark(index, (begin_s, packet.pos))
            if index in shapes and packet.is_keyframe:
                shapes[index].look(packet, begin_s)
            if index in sounds:
                sounds[index].look(packet, begin_s)
    reader.finish()
    _move_newcomers(reader.stretches)
    stretches = [stretch for stretch in reader.stretches if stretch.streams]
    if is_broadcast:
        stretches = _without_steps_of_one(stretches)
        stretches = [part for stretch in stretches for part in _split_by_streams(stretch)]
        stretches = [part for stretch in stretches for part in _split_by_clocks(stretch)]
    lag_s = max((seen.lag_s for stretch in stretches for seen in stretch.streams.values()), default=0.0)
    is_damaged = reader.has_damaged_times or reader.outliers > 0
    found = tuple(stretches), lag_s, reader.outliers, is_damaged, tuple(shapes.values()), tuple(sounds.values())
    return Timeline(*found, frozenset(present), end_byte, reader.ahead_s)


def _packets(container: InputContainer) -> Iterator[Any]:
    """All packets, also those behind damage at which libav stops."""
    for _ in range(MOST_STOPS):
        # PyAV does not find streams that turned up before the error.
        with contextlib.suppress(av.error.FFmpegError, IndexError):
            yield from container.demux()
            return


def _move_newcomers(stretches: list[Stretch]) -> None:
    """Move a stream that begins after all others of its stretch have ended to the next stretch."""
    for here, after in pairwise(stretches):
        for index, seen in list(here.streams.items()):
            ends = [other.last_byte for number, other in here.streams.items() if number != index]
            known = [end for end in ends if end is not None]
            is_later = seen.first_byte is not None and len(known) == len(ends) > 0 and max(known) < seen.first_byte
            if is_later and index not in after.streams:
                after.streams[index] = here.streams.pop(index)


def _without_steps_of_one(stretches: list[Stretch]) -> list[Stretch]:
    """The stretches, without those of streams that step back while others go on: these are of the same recording."""
    found: list[Stretch] = []
    for after in stretches:
        here = found[-1] if found else None
        others = [seen for index, seen in here.streams.items() if index not in after.streams] if here else []
        if here is None or not others or not after.streams.keys() <= here.streams.keys():
            found.append(after)
            continue
        until_s, until_byte = max(seen.end_s for seen in others), max(seen.last_byte or 0 for seen in others)
        steps_s = [here.streams[index].end_s - seen.start_s for index, seen in after.streams.items()]
        goes_on = until_byte > max(seen.first_byte or 0 for seen in after.streams.values())
        if not goes_on or max(steps_s) > BROADCAST_GAP_S or after.end_s > until_s + BROADCAST_GAP_S:
            found.append(after)
            continue
        for index, seen in after.streams.items():
            before = here.streams[index]
            before.end_s, before.last_byte = max(before.end_s, seen.end_s), seen.last_byte
            before.packets += seen.packets
    return found


def _split_by_streams(stretch: Stretch) -> list[Stretch]:
    """Split a stretch in which all streams of one programme follow those of another: PIDs differ, so it is new."""
    order = sorted(stretch.streams, key=lambda index: stretch.streams[index].first_byte or 0)
    parts: list[Stretch] = []
    for index in order:
        seen, kind = stretch.streams[index], stretch.kinds[index]
        before = [part.streams[i] for part in parts[-1:] for i in part.streams if part.kinds[i] == kind]
        ends = [one.last_byte for one in before if one.last_byte is not None]
        is_behind = seen.first_byte is not None and len(ends) == len(before) > 0 and max(ends) < seen.first_byte
        # A number that was of the other kind before.
        if not parts or is_behind or index - MAX_STREAMS in parts[-1].streams:
            parts.append(Stretch(kinds=stretch.kinds, jumps_ahead=stretch.jumps_ahead))
            seen.lag_s = 0.0
        elif len(parts) > 1 and not before:
            seen.lag_s = 0.0
        parts[-1].streams[index] = seen
    for here, after in pairwise(parts):
        _continue(here, after)
    return parts


def _continue(here: Stretch, after: Stretch) -> None:
    """Where only the sound or only the pictures go on under another PID, the others go on in both parts."""
    first = min(after.streams.values(), key=lambda seen: seen.start_s)
    kinds = {after.kinds[index] for index in after.streams}
    for index, seen in list(here.streams.items()):
        marks = first.beside.get(index, ())
        if here.kinds[index] in kinds or not marks or seen.end_s < first.start_s + MARK_S:
            continue
        _, byte = next((mark for mark in reversed(marks) if mark[0] <= first.start_s), marks[0])
        after.streams[index] = replace(seen, start_s=first.start_s, first_byte=byte, lag_s=0.0, is_first_start=False)
        here.streams[index] = replace(seen, end_s=first.start_s, last_byte=first.first_byte)
        after.is_continued = True


def _split_by_clocks(stretch: Stretch) -> list[Stretch]:
    """Streams that count by clocks far apart were never on screen together: one after the other, by their times."""
    parts: list[Stretch] = []
    for index, seen in sorted(stretch.streams.items(), key=lambda one: one[1].start_s):
        if not parts or seen.start_s > parts[-1].end_s + BROADCAST_GAP_S:
            is_continued = stretch.is_continued and not parts
            parts.append(Stretch(kinds=stretch.kinds, jumps_ahead=stretch.jumps_ahead, is_continued=is_continued))
            seen.lag_s = 0.0
        parts[-1].streams[index] = seen
    return parts


class _Scan:
    def __init__(self, is_broadcast: bool, kinds: dict[int, str], size: int, declared_s: float) -> None:
        self.kinds = kinds
        self.stretches = [Stretch(kinds=kinds)]
        self._size, self._declared_s = size, declared_s
        self.outliers = 0
        self.has_damaged_times = False
        self.ahead_s = 0.0
        self._is_broadcast = is_broadcast
        self._back_s = BROADCAST_BACK_S if is_broadcast else BACK_S
        self._latest_s = BROADCAST_GAP_S if is_broadcast else math.inf
        self._streams: dict[int, _Stream] = {}
        self._waiting: set[int] = set()
        self._reached_s = [-math.inf]
        self._order_s = [-math.inf]
        self._unproven_s = 0.0
        self._begun = 0
        self._marks: dict[int, tuple[_Mark, ...]] = {}

    def mark(self, index: int, mark: _Mark) -> None:
        """Remember a packet from which decoding can start."""
        marks = self._marks.get(index, ())
        if not marks or abs(mark[0] - marks[-1][0]) >= MARK_S:
            self._marks[index] = (*marks[1 - MOST_MARKS :], mark)

    def take(self, index: int, packet: _Packet) -> None:
        """Add a stream's next packet."""
        order_s, begin_s, length_s, byte = packet
        stream = self._streams.get(index)
        if stream is None:
            stream = self._streams[index] = _Stream(len(self.stretches) - 1)
        stream.has_places |= byte is not None
        if order_s is not None and not self._may_be_shown(index, stream, begin_s - order_s):
            begin_s, packet, self.has_damaged_times = order_s, (order_s, order_s, length_s, byte), True
        if not self._is_broadcast and not self._is_plausible(stream, begin_s):
            self.outliers += 1
        elif order_s is None or not (stream.pending or self._waiting or self._leaps(stream, order_s, begin_s)):
            self._add(index, stream, packet)
        else:
            self._wait(index, stream, order_s, packet)

    def _wait(self, index: int, stream: _Stream, order_s: float, packet: _Packet) -> None:
        """Take a packet that may have to wait, or that others' wait for."""
        _, begin_s, length_s, byte = packet
        for other in self._waiting - {index}:
            trailing_s = self._streams[other].trailing_s
            trailing_s[index] = min(order_s, trailing_s.get(index, order_s))
        if not self._follows(stream, order_s) and not self._leaps(stream, order_s, begin_s):
            self._drop(index, stream)
            self._add(index, stream, packet)
            return
        if stream.pending:
            step_s, first = order_s - stream.pending[-1].order_s, stream.pending[0]
            if step_s < -self._back_s or (step_s > FILE_GAP_S and self._jumps(stream, first.order_s, first.begin_s)):
                self._drop(index, stream)
        stream.pending.append(_Waiting(order_s, begin_s, length_s, byte, self._order_s[stream.stretch]))
        self._waiting.add(index)
        if stream.is_confirmed:
            self._settle(index, stream)

    def finish(self) -> None:
        """Accept an unconfirmed jump if another stream made it too, and an unconfirmed leap if others reach as far."""
        for index, stream in self._streams.items():
            if (ahead_s := self._ahead_s(index, stream)) > 0:
                self.ahead_s = max(self.ahead_s, ahead_s)
                self._drop(index, stream)
            self._settle(index, stream)
            if stream.pending and stream.stretch < len(self.stretches) - 1:
                self._switch(index, stream)
            else:
                self._drop(index, stream)
        for index, stream in self._streams.items():
            self._believe(index, stream)

    def _has_stray_start(self, index: int, stream: _Stream) -> bool:
        """Whether what came before a jump of one stream alone are fewer times than confirm one, in the first seconds.

        A broadcast that jumps ahead is read from there: its clock wraps in between for who reads from the beginning.
        """
        if self._is_broadcast and stream.pending[0].order_s > (stream.last_s or 0.0):
            return False
        streams = self.stretches[stream.stretch].streams
        is_alone = self._waiting <= {index} and stream.stretch == len(self.stretches) - 1
        if not is_alone or index not in streams or streams[index].stated >= CONFIRMING:
            return False
        others = [seen.end_s - seen.start_s for other, seen in streams.items() if other != index]
        return max(others, default=0.0) < FIRST_S

    def _begin_anew(self, index: int, stream: _Stream, first: _Waiting) -> None:
        """Take the time of what came first of a stream for damaged, and forget what was measured against it."""
        number = stream.stretch
        streams = self.stretches[number].streams
        seen, is_ahead = streams[index], first.order_s < (stream.last_s or 0.0)
        seen.start_s = min(seen.start_s, first.begin_s) if is_ahead else first.begin_s
        seen.end_s, seen.is_first_start, stream.last_s = first.begin_s, False, None
        stream.late_s.clear()
        self.outliers += seen.stated
        self._reached_s[number] = max(one.end_s for one in streams.values())
        orders = [one.last_s for one in self._streams.values() if one.stretch == number and one.last_s is not None]
        self._order_s[number] = max(orders, default=-math.inf)
        for one in streams.values():
            one.lag_s = 0.0

    def _ahead_s(self, index: int, stream: _Stream) -> float:
        """How far what waits of a stream at the end is behind all else; 0 where that may be so, or where it jumps."""
        seen = self.stretches[stream.stretch].streams.get(index)
        first = stream.pending[0] if stream.pending else None
        if seen is None or not seen.step_s or first is None or self._jumps(stream, first.order_s, first.begin_s):
            return 0.0
        if self.kinds[index] == "video" and self._is_alone() and not self._is_broadcast:
            return 0.0  # a picture that stayed
        waiting = [one.begin_s for other, it in self._streams.items() if other != index for one in it.pending]
        ahead_s = min(one.begin_s for one in stream.pending) - max([self._reached_s[stream.stretch], *waiting])
        return ahead_s if ahead_s > max(AHEAD_S, MOST_STEPS * seen.step_s) else 0.0

    def _drop(self, index: int, stream: _Stream) -> None:
        """Take the times of what waits for damaged."""
        self.outliers += len(self._released(index, stream))

    def _released(self, index: int, stream: _Stream) -> list[_Waiting]:
        waiting, stream.pending, stream.trailing_s = stream.pending, [], {}
        self._waiting.discard(index)
        return waiting

    def _believe(self, index: int, stream: _Stream) -> None:
        """Take the last pictures to be shown when they say, unless that is far behind all others."""
        for end_s, _ in stream.late_s:
            ahead_s = end_s - self._reached_s[stream.stretch]
            if ahead_s <= self._reorders_s(index, stream):
                self._reach(index, stream.stretch, end_s)
            else:
                self.ahead_s, self.has_damaged_times = max(self.ahead_s, ahead_s), True
        stream.late_s.clear()

    def _reach(self, index: int, number: int, end_s: float) -> None:
        seen = self.stretches[number].streams[index]
        seen.end_s = max(seen.end_s, end_s)
        self._reached_s[number] = max(self._reached_s[number], end_s)

    def _settle(self, index: int, stream: _Stream) -> None:
        """Add what waits up to a jump, and what is behind one if it is confirmed."""
        trailing_s, waiting = stream.trailing_s, self._released(index, stream)
        if waiting and not self._jumps(stream, waiting[0].order_s, waiting[0].begin_s):
            for other, order_s in trailing_s.items():
                if seen := self.stretches[stream.stretch].streams.get(other):
                    seen.lag_s = max(seen.lag_s, waiting[0].order_s - order_s)
        for number, one in enumerate(waiting):
            if self._jumps(stream, one.order_s, one.begin_s):
                stream.pending = waiting[number:]
                self._waiting.add(index)
                if stream.is_confirmed:
                    self._switch(index, stream)
                return
            self._add(index, stream, (one.order_s, one.begin_s, one.length_s, one.byte), one.ahead_s)

    def _may_be_shown(self, index: int, stream: _Stream, wait_s: float) -> bool:
        """Whether a picture can be shown so long after it is decoded, or before that, where all are counted so."""
        return -REORDERED_S <= wait_s <= self._latest_s or -self._reorders_s(index, stream) <= wait_s <= self._latest_s

    def _reorders_s(self, index: int, stream: _Stream) -> float:
        """By how many seconds the time when a picture is shown may differ from when it is decoded."""
        seen = self.stretches[stream.stretch].streams.get(index)
        return math.inf if seen is None else max(REORDERED_S, MOST_REORDERED * seen.step_s)

    def _is_plausible(self, stream: _Stream, begin_s: float) -> bool:
        reached_s = self._reached_s[stream.stretch]
        if not math.isfinite(reached_s) or (not stream.stretch and self._begun < 2):
            # A recording may begin at any time, if two packets say so.
            reached_s, self._unproven_s = self._unproven_s if abs(begin_s - self._unproven_s) < 1.0 else 0.0, begin_s
        gap_s = begin_s - max([reached_s, *(one.begin_s for one in stream.pending)])
        if gap_s <= LONGEST_GAP_S or begin_s * LEAST_BYTES_PER_S <= self._size:
            return True
        return gap_s <= LONGEST_DECLARED_GAP_S and begin_s <= self._declared_s + 1.0

    def _leaps(self, stream: _Stream, order_s: float, begin_s: float) -> bool:
        """Whether a packet does not follow those before it closely, whatever the times of the waiting ones are."""
        if stream.last_s is None:
            return self._jumps(stream, order_s, begin_s)
        most_s = self._back_s + sum(one.length_s for one in stream.pending)
        return not -self._most_back_s(stream) <= order_s - stream.last_s <= most_s

    def _follows(self, stream: _Stream, order_s: float) -> bool:
        """Whether a packet follows the last waiting one closely."""
        last = stream.pending[-1] if stream.pending else None
        return last is not None and -self._back_s <= order_s - last.order_s <= last.length_s + self._back_s

    def _most_back_s(self, stream: _Stream) -> float:
        return 0.0 if stream.stretch < len(self.stretches) - 1 else self._back_s

    def _jumps(self, stream: _Stream, order_s: float, begin_s: float) -> bool:
        if stream.last_s is None:
            # A stream under a new PID may begin with another recording.
            reached_s = self._reached_s[stream.stretch]
            return self._is_broadcast and math.isfinite(reached_s) and begin_s > reached_s + BROADCAST_GAP_S
        if order_s < stream.last_s - self._most_back_s(stream):
            return True
        most_s = BROADCAST_GAP_S if self._is_broadcast else math.inf if self._is_alone() else FILE_GAP_S
        return order_s > stream.last_s + most_s and begin_s > self._reached_s[stream.stretch] + most_s

    def _is_alone(self) -> bool:
        """Whether there is only video or only audio."""
        return len({self.kinds[index] for index in self._streams}) < 2

    def _switch(self, index: int, stream: _Stream) -> None:
        is_stray_start = self._has_stray_start(index, stream)
        waiting = self._released(index, stream)
        first_s = waiting[0].order_s
        if is_stray_start:
            self._begin_anew(index, stream, waiting[0])
            for one in waiting:
                self._add(index, stream, (one.order_s, one.begin_s, one.length_s, one.byte))
            return
        number = stream.stretch + 1
        # A later stream joins the stretch that others have begun, if its times fit.
        while number < len(self.stretches) and abs(first_s - self._order_s[number]) > FILE_GAP_S:
            number += 1
        if number == len(self.stretches):
            if number >= MOST_STRETCHES:
                raise ValueError(f"timestamps jump more than {MOST_STRETCHES} times")
            ahead = stream.last_s is not None and first_s > stream.last_s
            self.stretches.append(Stretch(kinds=self.kinds, jumps_ahead=ahead))
            self._reached_s.append(-math.inf)
            self._order_s.append(first_s)
        self._believe(index, stream)
        stream.stretch = number
        for one in waiting:
            self._add(index, stream, (one.order_s, one.begin_s, one.length_s, one.byte))

    def _add(self, index: int, stream: _Stream, packet: _Packet, ahead_s: float | None = None) -> None:
        """Take a packet's time for right; `ahead_s` is the order that all streams had reached when it came."""
        order_s, begin_s, length_s, byte = packet
        number = stream.stretch
        seen = self.stretches[number].streams.get(index)
        if seen is None:
            beside = dict(self._marks) if self._is_broadcast else {}
            seen = self.stretches[number].streams[index] = Seen(begin_s, byte, begin_s, beside=beside)
        elif stream.last_s is not None and order_s is not None and order_s > stream.last_s:
            seen.step_s = order_s - stream.last_s
        self._begun += 1
        seen.packets += 1
        states = byte is not None and byte != seen.last_byte if stream.has_places else True
        seen.stated += order_s is not None and states
        if begin_s < seen.start_s:
            seen.start_s, seen.is_first_start = begin_s, False
        # Matroska does not state how long a frame is shown: assume as long as the previous one. MP4 says that the last
        # frame before a pause is shown throughout it. No audio packet is that long.
        if not length_s or (length_s > FILE_GAP_S and (self.kinds[index] == "audio" or not self._is_alone())):
            length_s = min(seen.step_s, 1.0)
        if order_s is not None and REORDERED_S < begin_s - order_s > self._reorders_s(index, stream):
            stream.late_s.append((begin_s + length_s, seen.packets))
        else:
            self._reach(index, number, begin_s + length_s)
        if stream.late_s and stream.late_s[0][1] <= seen.packets - MOST_REORDERED:
            stream.late_s.pop(0)
            self.has_damaged_times = True
        seen.last_byte = byte if byte is not None else seen.last_byte
        if order_s is not None:
            seen.lag_s = max(seen.lag_s, (self._order_s[number] if ahead_s is None else ahead_s) - order_s)
            self._order_s[number] = max(self._order_s[number], order_s)
            stream.last_s = order_s
