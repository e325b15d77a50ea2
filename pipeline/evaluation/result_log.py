"""Finished clips in a file, one JSON line each, so that an evaluation that was stopped goes on where it was.

Promises: a line is whole or not used; results are taken back only under the key they were stored with. Knows nothing
about what a key is made of.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from omnidrop.json_text import parse_json
from pipeline.evaluation.dataset import ArmClip, EvaluationError, Scored, SetCost


class ResultLog:
    """Use it in a `with` block: it holds the file open."""

    def __init__(self, path: Path) -> None:
        """Raises EvaluationError where `path` cannot be read or written, or is a file of another kind."""
        self._path = path
        self._known: dict[str, ArmClip] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_bytes().split(b"\n") if path.exists() else []
            for number, line in enumerate(lines, 1):
                if line.strip():
                    self._take(line, number, last=number == len(lines))
            self._file = path.open("ab")
            if lines and lines[-1].strip():
                self._file.write(b"\n")  # a torn line must not swallow the next one
        except OSError as error:
            raise EvaluationError(f"--details {path}: {error.strerror}") from error

    def get(self, key: str) -> ArmClip | None:
        """What an earlier run found."""
        return self._known.get(key)

    def put(self, key: str, result: ArmClip) -> None:
        """Keep a result; it is on disk when this returns."""
        self._known[key] = result
        line = json.dumps({"key": key, **asdict(result)}, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def __len__(self) -> int:
        return len(self._known)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _take(self, line: bytes, number: int, *, last: bool) -> None:
        try:
            entry = parse_json(line)
            self._known[entry.pop("key")] = _result(entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if last or number > 1:
                return  # what a killed run leaves behind: the clip is asked again
            raise EvaluationError(
                f"--details {self._path}: line {number} is no result of an evaluation; give a new file"
            ) from error


def _result(entry: dict[str, Any]) -> ArmClip:
    scored = tuple(
        Scored(**{**one, "groups": tuple((str(kind), str(name)) for kind, name in one["groups"])})
        for one in entry["scored"]
    )
    return ArmClip(entry["arm"], entry["clip_id"], scored, tuple(SetCost(**one) for one in entry["sets"]))
