"""What a job means where it says nothing: the defaults an output was begun with, which it keeps.

Promises: another version's defaults change no answer of an output that exists, and ask nothing again. What a job says
itself always holds. Knows nothing about what the settings do.

    journal/defaults.json   {"clips": {"length_s": 30.0, ...}, "model": ..., "pruning": ...}, written by the first run
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omnidrop import policies
from omnidrop.errors import UserError, first_line
from omnidrop.json_text import parse_json
from pipeline.config.sections import ClipsConfig, ContextConfig, ModelConfig, PruningConfig, Section
from pipeline.records.checksummed_parquet import JournalError

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig
    from pipeline.storage.store import Store

PATH = "journal/defaults.json"
ANSWERING: Mapping[str, tuple[type[Section], tuple[str, ...]]] = {
    "model": (ModelConfig, ("path", "dtype", "system_prompt")),
    "pruning": (PruningConfig, tuple(PruningConfig.model_fields)),
    "clips": (ClipsConfig, tuple(ClipsConfig.model_fields)),
    "context": (ContextConfig, ("max_tokens", "subtitle_track")),
}
"""The settings on which answers depend."""
NEW_SECTIONS: Mapping[str, dict[str, Any]] = {"context": {}}
"""Sections that records of earlier versions lack."""


SHARE_OF_BEFORE = 0.35
"""Share of the picture that was encoded by default, by policies that can do with a part of it, where an output
remembers no share but null."""
LATER: Mapping[str, Mapping[str, Any]] = {
    "pruning": {"still_levels": 0.0, "read_left_out": False},
    "context": {"subtitle_track": "none"},
}
"""What outputs were begun with that remember nothing of it: settings that came after defaults were remembered."""


def keep(store: Store, *, of_earlier: bool = False) -> None:
    """Remember this version's defaults, or those of earlier formats, unless some are remembered."""
    now = {
        section: {name: model.model_fields[name].get_default(call_default_factory=True) for name in names}
        for section, (model, names) in ANSWERING.items()
    }
    for section, then in LATER.items() if of_earlier else ():
        now[section] |= then
    store.write_once(PATH, json.dumps(now, indent=1).encode())


def with_kept(job: JobConfig, store: Store) -> JobConfig:
    """The job with the output's own defaults where it says nothing. Raises UserError for a damaged record, and where
    they do not go together with what the job says."""
    try:
        meant = decode(store.read_bytes(PATH))
    except FileNotFoundError:
        return job
    except JournalError as error:
        raise UserError(f"{store.uri}/{error}") from error
    if meant["pruning"].get("encoder_share", 1.0) is None:
        meant["pruning"]["encoder_share"] = _share_of_before(job.pruning, meant["pruning"])
    try:
        changed = {section: found for section in ANSWERING if (found := _section(job, section, meant[section]))}
    except ValueError as error:
        raise UserError(
            f"the job's settings do not go together with those that this output was begun with, where the job says "
            f"nothing ({store.uri}/{PATH}): {first_line(error)}; write the settings into the job"
        ) from error
    return job.model_copy(update=changed) if changed else job


def decode(data: bytes) -> dict[str, dict[str, Any]]:
    """What is remembered, by section. Raises JournalError for damage."""
    try:
        kept: dict[str, dict[str, Any]] = {**NEW_SECTIONS, **parse_json(data)}
        meant = {section: {**LATER.get(section, {}), **kept[section]} for section in ANSWERING}
        for section, (model, names) in ANSWERING.items():
            told = {name: value for name, value in meant[section].items() if name in names}
            if told.get("encoder_share", 1.0) is None:
                del told["encoder_share"]  # as outputs say that were begun before a share was one
            model.model_validate(told)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise JournalError(
            f"{PATH} is damaged ({first_line(error)}); delete it and run `omnidrop plan`: without it, settings that "
            "the job leaves out mean what this version's defaults are, which may ask answered clips again"
        ) from error
    return meant


def _share_of_before(here: PruningConfig, kept: Mapping[str, Any]) -> float:
    policy, settings = (
        getattr(here, name) if name in here.model_fields_set or name not in kept else kept[name]
        for name in ("policy", "settings")
    )
    return SHARE_OF_BEFORE if policies.does_with_some_cells(policy, settings) else 1.0


def _section(job: JobConfig, section: str, kept: Mapping[str, Any]) -> Section | None:
    """The section with kept defaults, None where that changes nothing."""
    model, names = ANSWERING[section]
    here: Section = getattr(job, section)
    meant = {n: kept[n] for n in names if n in kept and n not in here.model_fields_set and kept[n] != getattr(here, n)}
    if not meant:
        return None
    given = {name: getattr(here, name) for name in here.model_fields_set}
    return model.model_validate(given | meant)
