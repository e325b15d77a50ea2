"""Whether any machine of the cluster has a core to decode on, beside the model actors and without the machines that
are out, and whether any is large enough for a model actor.

Promises: a run that can decode nothing any more, or has an actor to start that no machine can hold, says so, and ends
when the cluster has not grown for long. An actor that loads for long, or waits for others to end, is none of these.
Knows nothing about Ray, or which clips wait.
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


class ClusterRoom:
    """Looks now and then. `decoding` says how many clips each machine may decode at once, by its node's id, and None
    where that is not known; `no_actor` why no machine can hold a model actor, nothing where one can."""

    def __init__(self, decoding: Callable[[], Mapping[str, int] | None], no_actor: Callable[[], str]) -> None:
        self._decoding, self._no_actor = decoding, no_actor
        self._looked_at = float("-inf")
        self._none_since: dict[str, float] = {}

    def look(self, out: Mapping[str, str], *, is_decoding: bool, is_loading: bool) -> list[str]:
        """With the reason why each machine that is `out` is, and whether clips and actors are under way; returns the
        machines that have no core for decoding, nothing where this was asked a moment ago. Raises ExecutionError where
        there was no room for long."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return []
        self._looked_at = now
        self._mind("an actor", self._no_actor() if is_loading else "")
        if not is_decoding:
            return []
        room = self._decoding()
        self._mind("decoding", "" if room is None else _no_decoding(room, out))
        return [machine for machine, clips in (room or {}).items() if not clips]

    def _mind(self, what: str, said: str) -> None:
        since = self._none_since.setdefault(what, self._looked_at)
        if not said:
            del self._none_since[what]
        elif since == self._looked_at:
            log.warning("%s; waiting %.0f s for the cluster to grow", said, NO_ROOM_S)
        elif self._looked_at - since > NO_ROOM_S:
            raise ExecutionError(f"{said}. None came within {NO_ROOM_S:.0f} s. Run again: finished units are kept")


def _no_decoding(room: Mapping[str, int], out: Mapping[str, str]) -> str:
    if any(room[machine] for machine in room.keys() - out.keys()):
        return ""
    if not room:
        return "no machine that decodes is left in the cluster; start one"
    reasons = "; ".join(sorted(set(out.values())))
    without = f" of the machines that still decode (out: {reasons})" if out else ""
    return f"the model actors leave no CPU core{without} for decoding; lower model.actors or model.cpus_per_actor"
