"""Places on the way from a finished unit to published tables where a run can be made to die, as from SIGKILL.

Promises: nothing happens unless the environment arms a point (`OMNIDROP_FAIL_AT=unit_written`, or `unit_written:3` for
its third visit); then this process dies there without any clean-up. Knows nothing about what happens around a point.
`tests/robustness/crash` arms each of them and shows that nothing is lost, doubled or mixed.
"""

from __future__ import annotations

import itertools
import os
import signal

VARIABLE = "OMNIDROP_FAIL_AT"

POINTS = {
    "run_recorded": "the journal knows of the run, the index does not",
    "kept_read": "answers that a unit keeps were read, what is new is not asked yet",
    "unit_encoded": "a finished unit's bytes exist only in memory",
    "file_filled": "a local store's temporary file is whole and not yet in its place (any object)",
    "unit_written": "a unit is in the journal; nobody has looked for a tombstone yet",
    "heads_written": "versions are declared in the journal, the index does not know them",
    "heads_applied": "the index knows the versions; units that count again are not taken up yet",
    "units_half_applied": "inside the index's transaction: the units are in, their clips are not",
    "units_applied": "the index knows the units",
    "video_half_read": "the stretches of a long video were read, what was concluded about them was not",
    "video_written": "answers about a whole video are in the journal; the index does not know them",
    "run_closed": "the journal knows how the run ended, the index does not",
    "unlisting": "all is planned; what the archive does not list any more still counts",
    "generation_claimed": "a generation's folder is claimed and empty",
    "table_file_written": "some of a generation's files are there",
    "generation_written": "all of a generation's files are there, the manifest names the one before",
    "manifest_written": "the manifest names the new generation, older ones are still there",
    "live_file_written": "some of the live files are of the new generation, the others of the one before",
    "object_deleted": "one of several objects is deleted (old generations, forgotten units)",
    "forget_tombstone": "a forgotten item's tombstone is there, and everything else, too",
    "forget_units": "its units are deleted, its heads are not",
    "forget_head": "one of the objects that held its heads is rewritten",
    "forget_journal": "the journal has forgotten, the index has not",
    "forget_index": "journal and index have forgotten, the tables have not",
    "index_cleared": "a rebuild has emptied the index",
}
"""Every point, with the state that a death there leaves."""

_visits = {name: itertools.count(1) for name in POINTS}


def reached(name: str) -> None:
    """Die here if this visit of this point is armed."""
    armed = os.environ.get(VARIABLE)
    if armed is None:
        return
    point, _, visit = armed.partition(":")
    assert {name, point} <= POINTS.keys(), (name, point)
    if name == point and next(_visits[name]) == int(visit or 1):
        os.kill(os.getpid(), signal.SIGKILL)
