"""Keeps one run's record: written before the run's first work, and again when it ends.

Promises: rows name their run, so its record and its recipe are in the journal before its first unit is; a run that
found nothing to do leaves no record of its own but takes the place of the one before it that found nothing, so that an
archive that is looked at every hour keeps no longer history than one that is not. Knows nothing about how units are
made.
"""

from __future__ import annotations

from pipeline.failpoints import reached
from pipeline.journal import defaults, recipes
from pipeline.planning.open_job import Opened
from pipeline.records.run_record import RunRecord


class Recorder:
    """One run's record in journal and index. Used by the run's own thread alone."""

    def __init__(self, opened: Opened, run: RunRecord) -> None:
        self._opened, self._run = opened, run
        self._has_begun = False

    @property
    def _kept(self) -> recipes.Kept:
        opened = self._opened
        return recipes.Kept.of(opened.job, opened.question_set, opened.recipe.fields.get("passes", ()))

    def renew(self) -> None:
        """What is made of answers for whole videos may have changed, although no clip is asked anything else; and what
        says so may be lost."""
        opened = self._opened
        recipes.renew(opened.store, opened.recipe.hash, self._kept, was_asked=opened.recipe.hash in opened.recipes)
        if opened.recipes and not opened.store.exists(defaults.PATH):
            defaults.keep(opened.store)

    def begin_work(self) -> None:
        """Something is about to be done: from now on the run is known. Safe to repeat."""
        if self._has_begun:
            return
        self._has_begun = True
        opened = self._opened
        opened.journal.write_run(self._run)
        defaults.keep(opened.store)
        recipes.keep(opened.store, opened.recipe.hash, self._kept)
        reached("run_recorded")
        opened.index.write_run(self._run)

    def end(self, run: RunRecord) -> None:
        """The run is over, however it ended."""
        if not self._has_begun and run.status == "complete":
            self._opened.journal.write_idle_run(run)
            return
        self._opened.journal.write_run(run)
        reached("run_closed")
        self._opened.index.write_run(run)
