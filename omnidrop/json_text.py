"""Reading JSON that others wrote.

Promises: a value, or ValueError for whatever is not JSON, nesting deeper than Python reads included. Knows nothing
about what the values mean.
"""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes, *, is_strict: bool = False) -> Any:
    """`is_strict` refuses NaN and the infinities, which Python accepts and other parsers do not. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=_refuse if is_strict else None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
