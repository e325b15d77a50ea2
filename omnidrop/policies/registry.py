"""The pruning policies by name.

Promises: names are known without loading torch; a policy's module is imported when the policy is asked for. Adding a
policy is one file beside this one and its line in `_POLICIES`, or `register` from elsewhere. Knows nothing about what
policies do.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING

from omnidrop.errors import PolicyError

if TYPE_CHECKING:
    from omnidrop.policies.base import Policy

_POLICIES: dict[str, str | type[Policy]] = {
    "none": "omnidrop.policies.none:Nothing",
    "omnidrop": "omnidrop.policies.omnidrop:OmniDrop",
    "omnidrop_paper": "omnidrop.policies.omnidrop_paper:OmniDropPaper",
    "random": "omnidrop.policies.random_tokens:Random",
    "fastv": "omnidrop.policies.fastv:FastV",
    "divprune": "omnidrop.policies.divprune:DivPrune",
    "omnizip": "omnidrop.policies.omnizip:OmniZip",
    "dash": "omnidrop.policies.dash:Dash",
    "seats": "omnidrop.policies.seats:Seats",
    "visionzip": "omnidrop.policies.visionzip:VisionZip",
    "vidcom2": "omnidrop.policies.vidcom2:VidCom2",
    "evs": "omnidrop.policies.evs:EVS",
}
"""Each policy's class, or where it is: `module:class`."""


def register(policy: type[Policy]) -> type[Policy]:
    """Class decorator: make a policy available by its `name`."""
    _POLICIES[policy.name] = policy
    return policy


@contextmanager
def registered(policy: type[Policy]) -> Iterator[None]:
    """Make a policy available while the block runs: for experiments."""
    before = _POLICIES.get(policy.name)
    register(policy)
    try:
        yield
    finally:
        del _POLICIES[policy.name]
        if before is not None:
            _POLICIES[policy.name] = before


def names() -> tuple[str, ...]:
    """Every policy's name, in the order in which help texts list them."""
    return tuple(_POLICIES)


def policy_class(name: str) -> type[Policy]:
    """The class of policy `name`. Raises PolicyError naming what is allowed."""
    found = _POLICIES.get(name)
    if found is None:
        raise PolicyError(f"unknown policy {name!r}; allowed: {', '.join(names())}")
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = _POLICIES[name] = getattr(importlib.import_module(module), attribute)
    return found


def settings_of(name: str) -> tuple[str, ...]:
    """What policy `name` can be given: the names of its fields. Raises PolicyError."""
    return tuple(f.name for f in fields(policy_class(name)) if f.init)  # type: ignore[arg-type]


def named(name: str, **settings: object) -> Policy:
    """The policy `name` with `settings` for its fields. Raises PolicyError naming what is allowed."""
    allowed = settings_of(name)
    if unknown := sorted(set(settings) - set(allowed)):
        raise PolicyError(
            f"policy {name!r} has no setting {', '.join(map(repr, unknown))}; allowed: {', '.join(allowed) or 'none'}"
        )
    return policy_class(name)(**settings)


def takes(name: str, setting: str) -> bool:
    """Whether policy `name` has a parameter called `setting`."""
    return name in _POLICIES and setting in settings_of(name)
