"""The pruning policies by name.

Promises: names are known without loading torch; a policy's module is imported when the policy is asked for. Adding a
policy is one file beside this one and its line in `_POLICIES`, or `register` from elsewhere. Knows nothing about what
policies do.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin, get_type_hints

from omnidrop.errors import PolicyError
from omnidrop.registries import registered_in

if TYPE_CHECKING:
    from omnidrop.policies.base import Policy

Value = float | int | str | bool
"""What a setting of a policy may hold."""

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
    "omnipack": "omnidrop.policies.omnipack:OmniPack",
}
"""Each policy's class, or where it is: `module:class`."""


def register(policy: type[Policy]) -> type[Policy]:
    """Class decorator: make a policy available by its `name`."""
    _POLICIES[policy.name] = policy
    return policy


def registered(policy: type[Policy]) -> AbstractContextManager[None]:
    """Make a policy available while the block runs: for experiments."""
    return registered_in(_POLICIES, policy.name, policy)


def names() -> tuple[str, ...]:
    """Every policy's name, in the order in which help texts list them."""
    return tuple(_POLICIES)


def policy_class(name: str) -> type[Policy]:
    """The class of policy `name`. Raises PolicyError naming what is allowed."""
    found = _POLICIES.get(name)
    if found is None:
        raise PolicyError(f"unknown policy {name!r}; allowed: {', '.join(names())}")
    if isinstance(found, str):
        found = _POLICIES[name] = cast("type[Policy]", pkgutil.resolve_name(found))
    return found


def settings_of(name: str) -> tuple[str, ...]:
    """What policy `name` can be given: the names of its fields. Raises PolicyError."""
    return tuple(field.name for field in fields(policy_class(name)) if field.init)  # type: ignore[arg-type]


def effective(name: str, settings: Mapping[str, object]) -> tuple[tuple[str, Value], ...]:
    """`settings` of policy `name` that differ from its defaults, typed as its fields, sorted by name.

    Two spellings of one policy give the same: a default written out, 1 for 1.0, a bare `off` that YAML reads as false.
    Raises PolicyError where a name, a type or a value is not one of the policy's.
    """
    if not settings:
        return ()  # nothing to check, and nothing that needs torch
    policy = policy_class(name)
    if unknown := sorted(set(settings) - set(settings_of(name))):
        allowed = ", ".join(settings_of(name)) or "none"
        raise PolicyError(f"policy {name!r} has no setting {', '.join(map(repr, unknown))}; allowed: {allowed}")
    kinds = get_type_hints(policy)
    typed = {key: _typed(f"{name}: {key}", kinds[key], value) for key, value in settings.items()}
    policy(**typed)
    defaults = {field.name: field.default for field in fields(policy)}  # type: ignore[arg-type]
    return tuple(sorted((key, value) for key, value in typed.items() if value != defaults[key]))


def _typed(where: str, kind: Any, given: object) -> Any:
    """`given` as a field of type `kind` holds it. Raises PolicyError."""
    kinds = [one for one in get_args(kind) if one is not NoneType] if get_origin(kind) is UnionType else [kind]
    for one in kinds:
        choices = get_args(one) if get_origin(one) is Literal else ()
        if isinstance(given, bool):
            if one is bool:
                return given
            if (word := "on" if given else "off") in choices:
                return word
        elif isinstance(given, int | float):
            if one is float or (one is int and isinstance(given, int)):
                return one(given)
        elif given in choices or (one is str and isinstance(given, str)):
            return given
    wanted = [
        "one of " + ", ".join(map(str, get_args(one))) if get_origin(one) is Literal else _KINDS.get(one, str(one))
        for one in kinds
    ]
    raise PolicyError(f"{where} must be {' or '.join(wanted)}, got {given!r}")


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def named(name: str, **settings: object) -> Policy:
    """The policy `name` with `settings` for its fields. Raises PolicyError naming what is allowed."""
    return policy_class(name)(**dict(effective(name, settings)))


STILL_LEVELS = 2.0
_DO_WITH_SOME_CELLS = frozenset({"omnidrop"})
"""Policies that can do with a part of the picture: known without loading torch, as names are."""


def does_with_some_cells(name: str, settings: Mapping[str, object]) -> bool:
    """Whether policy `name` with `settings` can do with a part of the picture, or chooses among all tokens of a clip.
    Raises PolicyError, as `effective`."""
    if not settings and isinstance(_POLICIES.get(name), str):
        return name in _DO_WITH_SOME_CELLS
    return bool(getattr(named(name, **settings), "does_with_some_cells", False))


def still_levels(encoder_share: float) -> float:
    """8-bit levels within which cells stand still, where nothing is said: a still camera's noise. What is encoded whole
    is encoded as it is."""
    return STILL_LEVELS if encoder_share < 1.0 else 0.0


_READ_BY_DEFAULT = frozenset({"omnidrop"})
"""Policies whose questions read what does not enter the decoder, where nothing is said, as their classes do: known
without loading torch. The published methods do not."""


def reads_left_out(name: str, asked: bool | None, encoder_share: float, levels: float) -> bool:
    """Whether questions read what policy `name` leaves out: as `asked`; where nothing is said, ours where everything is
    encoded. Raises PolicyError where that cannot be had."""
    is_whole = encoder_share == 1.0 and not levels
    if asked is None:
        policy = _POLICIES.get(name)
        by_default = name in _READ_BY_DEFAULT if isinstance(policy, str) else getattr(policy, "read_left_out", False)
        return is_whole and by_default
    if asked and not is_whole:
        raise PolicyError(
            f"read_left_out lets questions read every token of a clip, but with encoder_share {encoder_share:g} and "
            f"still_levels {levels:g} only some are encoded: remove read_left_out, or the other two"
        )
    if asked and not takes(name, "read_left_out"):
        raise PolicyError(f"policy {name!r} has no read_left_out: remove it, or set it to false")
    return asked


def remark(name: str, settings: Mapping[str, object]) -> str:
    """What a user should know about `settings` of policy `name`, empty where nothing. Raises PolicyError."""
    return str(getattr(named(name, **settings), "remark", "")) if settings else ""


def gives_rates(settings: Collection[str]) -> bool:
    """Whether a policy with these settings, by name, is given the rates at which tokens leave, and so needs no retained
    ratio."""
    return "p_final" in settings


def takes(name: str, setting: str) -> bool:
    """Whether policy `name` has a parameter called `setting`."""
    return name in _POLICIES and setting in settings_of(name)
