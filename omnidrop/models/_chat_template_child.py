"""Runs as `python -I _chat_template_child.py`: renders a chat template read as JSON from standard input, within limits.

Promises: what transformers' `apply_chat_template` would render, or an end by the kernel: a checkpoint's template is
a third party's program, and may run for ever. Knows nothing about checkpoints.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S, MEMORY_BYTES, RENDERED_CHARS = 3, 1 << 30, 1 << 20


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` only marks what an assistant said."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _as_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:  # noqa: E501  # fmt: skip
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def main() -> None:
    """Render once."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    given = json.load(sys.stdin)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _as_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(str(form))
    try:
        parts, length = [], 0
        for part in environment.from_string(given["template"]).generate(**given["values"]):
            length += len(part)
            if length > RENDERED_CHARS:
                raise ValueError(f"it renders to more than {RENDERED_CHARS} characters")
            parts.append(part)
        answer = {"rendered": "".join(parts)}
    except Exception as error:  # noqa: BLE001 - a template may raise anything, and the parent says it
        answer = {"error": f"{type(error).__name__}: {error}"[:500]}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
