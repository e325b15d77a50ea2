"""Questions that people ask of results again and again, as SQL files with a name, a sentence and parameters.

Promises: values are bound to parameters and never pasted into SQL; a name or a value that cannot be used is refused
with what there is. Knows nothing about connections, tables or how rows are shown.

A file begins with comment lines: what it answers, then one line for each parameter, with a default or without.

    -- Which answers should a person look at first?
    -- $margin = 0.2: probability ahead of the second answer, at most
    SELECT * FROM answers WHERE margin < $margin
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from omnidrop.errors import UserError

FOLDER = Path(__file__).parent / "queries"
VIEWS = {file.stem: file.read_text(encoding="utf-8") for file in sorted((FOLDER / "views").glob("*.sql"))}
"""Further tables, made from the published ones: name and SELECT, the same in every SQL dialect that we know of."""

_PARAMETER = re.compile(r"-- \$(?P<name>\w+)(?: = (?P<default>[^:]*))?: (?P<says>.+)")
_NAME = re.compile(r"[\w.-]+")

Value = str | int | float


class NamedQueryError(UserError):
    """There is no such query, or its parameters cannot be used as given."""

    error_class = "query"


@dataclass(frozen=True)
class Parameter:
    """One value that a query takes."""

    name: str
    says: str
    default: Value | None = None
    """None where a value must be given."""

    def __str__(self) -> str:
        return self.name if self.default is None else f"{self.name}={self.default}"


@dataclass(frozen=True)
class NamedQuery:
    """One SQL statement, what it answers, and what may be set."""

    name: str
    says: str
    sql: str
    parameters: tuple[Parameter, ...] | None = None
    """None where it declares nothing, as SQL from the command line, and takes what is given."""

    def values(self, given: Mapping[str, str]) -> dict[str, Value]:
        """What to bind: the defaults with what was given, numbers where the default is one. Raises NamedQueryError."""
        if self.parameters is None:
            return {name: _scalar(text) for name, text in given.items()}
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                has = ", ".join(map(str, known.values())) or "none"
                raise NamedQueryError(
                    f"--set {name}: {self.name} has no such parameter;{_close(name, known)} it has: {has}"
                )
        bound: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.name in given:
                bound[parameter.name] = _typed(self.name, parameter, given[parameter.name])
            elif parameter.default is not None:
                bound[parameter.name] = parameter.default
            else:
                raise NamedQueryError(
                    f"{self.name} needs {parameter.name} ({parameter.says}); add --set {parameter.name}=VALUE"
                )
        return bound


def named_queries() -> dict[str, NamedQuery]:
    """The queries that come with the package, by name."""
    return {file.stem: read_query(file) for file in sorted(FOLDER.glob("*.sql"))}


def find_query(text: str) -> NamedQuery:
    """What a person means by `text`: a query's name, a file that ends in `.sql`, or SQL. Raises NamedQueryError."""
    queries = named_queries()
    if text in queries:
        return queries[text]
    if text.endswith(".sql") and len(text.splitlines()) == 1:
        return read_query(Path(text))
    if _NAME.fullmatch(text):
        raise NamedQueryError(
            f"there is no query named {text};{_close(text, queries)} there are {', '.join(queries)}; or write SQL, as "
            'in "SELECT * FROM answers", or name a file that ends in .sql'
        )
    return NamedQuery("SQL", "", text)


def read_query(file: Path) -> NamedQuery:
    """A query from its file. Raises NamedQueryError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise NamedQueryError(f"{file}: the query cannot be read: {reason}; give a file of SQL") from error
    head = list(takewhile(lambda line: line.startswith("--"), lines))
    matches = [_PARAMETER.fullmatch(line) for line in head]
    says = [line.removeprefix("--").strip() for line, match in zip(head, matches, strict=True) if match is None]
    parameters = tuple(
        Parameter(match["name"], match["says"], None if match["default"] is None else _scalar(match["default"]))
        for match in matches
        if match is not None
    )
    return NamedQuery(file.stem, " ".join(says), "\n".join(lines[len(head) :]), parameters)


def _typed(query: str, parameter: Parameter, text: str) -> Value:
    if not isinstance(parameter.default, int | float):
        return text
    if not _is_number(text):
        raise NamedQueryError(
            f"--set {parameter.name}={text}: {query} takes a number here ({parameter.says}), "
            f"as in --set {parameter.name}={parameter.default}"
        )
    return _scalar(text)


def _scalar(text: str) -> Value:
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    return float(text) if _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None


def _close(name: str, known: Mapping[str, object]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f" did you mean {found[0]}?" if found else ""
