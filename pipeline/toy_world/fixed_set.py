"""The right answers to the built-in question set `toy-world`, from the truth of a clip.

Promises: an answer only where the truth leaves no doubt (an event that a clip's border cuts short, or two red shapes,
give none). Knows nothing about models or results.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.toy_world.truth import Event

SEEN_S = 1.0
"""An event must last so long inside a clip to count, and may last at most this long in it to be ignored."""


def right_answers(events: Sequence[Event], start_s: float, end_s: float) -> dict[str, str]:
    """Right answers by question id, as `answers.answer` spells them, for the clip from `start_s` to `end_s`.

    Empty where an event crosses the border in a way that leaves it open whether it counts.
    """
    inside = []
    for event in sorted(events, key=lambda e: e.start):
        overlap = min(event.end, end_s) - max(event.start, start_s)
        if 0 < overlap < SEEN_S:
            return {}
        if overlap > 0:
            inside.append(event)
    shown = [e for e in inside if e.shape is not None]
    heard = [e.sound for e in inside if e.sound is not None]
    reds, circles = [e for e in shown if e.colour == "red"], [e for e in shown if e.shape == "circle"]
    answers = {
        "first_shape": shown[0].shape if shown else "none",
        "first_colour": shown[0].colour if shown else "none",
        "last_shape": shown[-1].shape if shown else "none",
        "first_sound": heard[0] if heard else "none",
        "last_sound": heard[-1] if heard else "none",
        "sweep_heard": "yes" if "rising sweep" in heard else "no",
        "colour_shown": "yes" if reds else "no",
        "shapes": str(len(shown)),
        "sounds": str(len(heard)),
        "shape_colour": _only([e.colour for e in circles]),
        "shape_of_colour": _only([e.shape for e in reds]),
    }
    return {name: answer for name, answer in answers.items() if answer is not None}


def _only(values: list[str | None]) -> str | None:
    """The one value there is, "none" without any, None where they differ."""
    return "none" if not values else values[0] if len(set(values)) == 1 else None
