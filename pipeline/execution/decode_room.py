"""Whether any machine has a core to decode on, beside the model actors and without the machines that are out.

Promises: a run that can decode nothing any more says so, and ends when the cluster has not grown for long. Knows
nothing about Ray, or which clips wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from pipeline.execution.actor_pool import ExecutionError
from pipeline.execution.homes import LOOK_S

log = logging.getLogger(__name__)

NO_ROOM_S = 600.0
"""How long there may be none: a cluster that grows has a new machine by then."""


class DecodeRoom:
    """Looks now and then. `room` says how many clips each machine may decode at once, by its node's id, and None where
    that is not known."""

    def __init__(self, room: Callable[[], Mapping[str, int] | None]) -> None:
        self._room = room
        self._looked_at = float("-inf")
        self._none_since: float | None = None

    def look(self, out: Mapping[str, str]) -> list[str]:
        """With the reason why each machine that is `out` is; returns those that have no core for decoding, nothing
        where this was asked a moment ago. Raises ExecutionError where there was no room for long."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return []
        self._looked_at, room = now, self._room()
        full = [machine for machine, clips in (room or {}).items() if not clips]
        if room is None or any(room[machine] for machine in room.keys() - out.keys()):
            self._none_since = None
            return full
        reasons = "; ".join(sorted(set(out.values())))
        without = f" of the machines that still decode (out: {reasons})" if out else ""
        said = f"the model actors leave no CPU core{without} for decoding; lower model.actors or model.cpus_per_actor"
        if not room:
            said = "no machine that decodes is left in the cluster; start one"
        if self._none_since is None:
            self._none_since = now
            log.warning("%s; waiting %.0f s for the cluster to grow", said, NO_ROOM_S)
        elif now - self._none_since > NO_ROOM_S:
            raise ExecutionError(f"{said}. None came within {NO_ROOM_S:.0f} s. Run again: finished units are kept")
        return full
