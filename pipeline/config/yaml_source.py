"""Reads the YAML that people write (job files, question sets) into plain values that remember their line and column.

Promises: only scalars, lists and mappings come out, by the YAML 1.2 core schema (`yes` and `on` stay words, `1e9` is a
number); duplicate keys, tags, merge keys, oversized files and alias bombs are refused, and every refusal names file,
line and column. Knows nothing about what the values mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from omnidrop.errors import UserError, first_line

MAX_FILE_BYTES = 512 * 1024
"""A question set of 2,000 questions takes about 300 kB; PyYAML needs seconds for a file larger than this."""
MAX_NODES = 100_000
"""Values after aliases are expanded: bounds an alias bomb, which is small on disk and endless in memory."""
MAX_DEPTH = 40

FieldPath = tuple[str | int, ...]
"""Keys and list indices from the top of the document."""

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE, _FALSE = {"true", "True", "TRUE"}, {"false", "False", "FALSE"}
_PLAIN_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}


class YamlError(UserError):
    """The file is not there, too large, or not the plain YAML that is read here."""


@dataclass(frozen=True)
class YamlDocument:
    """A file's value and where each part of it stands."""

    path: Path
    value: Any
    marks: Mapping[FieldPath, tuple[int, int]]
    """Line and column, counted from 1: of the key for entries of a mapping, of the value for entries of a list."""
    written: Mapping[FieldPath, str] = field(default_factory=dict)
    """Values without quotes, as they are written, where they are not read so: `1.10`, which is the number 1.1."""
    cut: Mapping[FieldPath, str] = field(default_factory=dict)
    """Texts without quotes that end at a comment, which may have been meant as a part of them: the comment with the
    blanks before it."""

    def read_otherwise(
        self, takes: Callable[[FieldPath], bool] = lambda name: False
    ) -> Iterator[tuple[FieldPath, str]]:
        """Fields that may be meant otherwise than YAML reads them, each with a sentence: texts cut at a comment, and
        variables that are numbers.

        Of fields that `takes` holds for, every comment counts; of others, one after a single blank: most people leave
        more before a comment.
        """
        for name, comment in self.cut.items():
            if takes(name) or comment[1:2] == "#":
                said = f"{dotted(name)} ends before {comment.strip()!r}, because YAML reads the rest as a comment"
                yield name, f"{self.where(name)}: {said}; if it is part of the text, quote the text"
        for name, text in self.written.items():
            if name[0] == "variables":
                said = f"{dotted(name)} is read as a number; for the text {text!r}, quote it"
                yield name, f"{self.where(name)}: {said}"

    def where(self, field: FieldPath = ()) -> str:
        """`file:line:column` of a field, or of its nearest ancestor that is written in the file."""
        for length in range(len(field), -1, -1):
            if (mark := self.marks.get(field[:length])) is not None:
                return f"{self.path}:{mark[0]}:{mark[1]}"
        return str(self.path)


def dotted(field: FieldPath) -> str:
    """A field path as people write it: `questions[2].answer.type`. A key that is no one line is quoted."""
    text = ""
    for part in field:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part.isprintable() else repr(part))
    return text


def read_yaml(path: Path) -> YamlDocument:
    """Read one file. Raises YamlError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise YamlError(f"{path}: there is no such file (looked in {path.parent.absolute()})") from error
    except OSError as error:
        raise YamlError(f"{path}: cannot be read: {error.strerror}; give a YAML file, such as job.yaml") from error
    if len(data) > MAX_FILE_BYTES:
        raise YamlError(f"{path}: larger than the {MAX_FILE_BYTES // 1024} KiB allowed for a hand-written file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(
            f"{path}: not UTF-8 text (byte {error.start}): {error.reason}; save it as UTF-8, or give a YAML file, such "
            "as job.yaml"
        ) from error
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> YamlDocument:
    """Parse text that came from `path`. Raises YamlError."""
    try:
        # BaseLoader resolves nothing by itself: every plain scalar comes out as text and is typed below.
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        hint = _colon(text, error) or _quoting(text, mark) or _comment(text, error)
        raise YamlError(f"{at}: not valid YAML: {error.problem or error.context}{hint}") from error
    except yaml.YAMLError as error:
        raise YamlError(f"{path}: not valid YAML: {first_line(error)}") from error
    except RecursionError as error:
        raise YamlError(f"{path}: nested deeper than the {MAX_DEPTH} levels allowed") from error
    reader = _Reader(path, text.splitlines())
    value = reader.read(node, (), 0) if node is not None else None
    return YamlDocument(path, value, reader.marks, reader.written, reader.cut)


def _colon(text: str, error: yaml.MarkedYAMLError) -> str:
    """What to do where a name lost the colon behind it: YAML sees that in the next line only."""
    problem, context = error.problem_mark, error.context_mark
    if problem is None or error.problem not in ("could not find expected ':'", "mapping values are not allowed here"):
        return ""
    number = problem.line - 1 if context is None else min(context.line, problem.line - 1)
    written = text.splitlines()[number].strip().removeprefix("- ") if number >= 0 else ""
    if re.fullmatch(r"[a-z_]+ [^:#\"']+", written) is None:
        return ""
    name, rest = written.split(" ", 1)
    return f"; is a colon missing in line {number + 1}, as in {name}: {rest.strip()}"


def _quoting(text: str, mark: yaml.Mark | None) -> str:
    """What to do where a text without quotes holds a character that means something to YAML there."""
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines) or not any(c in lines[mark.line] for c in "{[?:"):
        return ""
    character = lines[mark.line][mark.column : mark.column + 1]
    if character not in ("?", ":", "[", "]", "{", "}", ",", "&", "*", "!", "|", ">", "%", "@", "`", "#"):
        return ""
    return f'; quote the text around {character!r}, as in text: "Is it red?"'


def _comment(text: str, error: yaml.MarkedYAMLError) -> str:
    """What to do where what does not end, or goes on after its end, was cut by a comment."""
    problem, context = error.problem_mark, error.context_mark
    if problem is None:
        return ""
    lines = text.splitlines()
    first = context.line if context is not None else problem.line - 1
    for number in range(min(problem.line, len(lines) - 1), max(0, first, problem.line - 2) - 1, -1):
        if (found := re.search(r"\S\s+(#.*)", lines[number])) is not None:
            return f"; {found[1]!r} in line {number + 1} is taken for a comment: quote the text if it is a part of it"
    return ""


class _Reader:
    """Turns composed nodes into values; holds the marks and the count of nodes seen so far."""

    def __init__(self, path: Path, lines: list[str]) -> None:
        self.path, self._lines = path, lines
        self.written: dict[FieldPath, str] = {}
        self.cut: dict[FieldPath, str] = {}
        self.marks: dict[FieldPath, tuple[int, int]] = {}
        self.nodes = 0

    def read(self, node: yaml.Node, field: FieldPath, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.error(node, f"more than {MAX_NODES} values once aliases (*name) are expanded; write fewer")
        if depth > MAX_DEPTH:
            raise self.error(node, f"nested deeper than the {MAX_DEPTH} levels allowed")
        if node.tag not in _PLAIN_TAGS:
            raise self.error(node, f"the tag {node.tag!r} is not allowed; write plain text, numbers, lists or mappings")
        self.marks.setdefault(field, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*field, index), depth + 1) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, field, depth)
        assert isinstance(node, yaml.ScalarNode)
        value = _scalar(node, text := self.text(node))
        if node.style is None:
            if isinstance(value, int | float) and not isinstance(value, bool) and str(value) != text:
                self.written[field] = text
            end = node.end_mark
            rest = self._lines[end.line][end.column :] if end.line < len(self._lines) else ""
            if isinstance(value, str) and rest.lstrip().startswith("#"):
                self.cut[field] = rest
        return value

    def text(self, node: yaml.ScalarNode) -> str:
        """A scalar's text. JSON writes a character beyond U+FFFF as two escapes, which PyYAML leaves apart."""
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise self.error(node, "half of a surrogate pair (\\uD800 to \\uDFFF) is not a character") from error

    def mapping(self, node: yaml.MappingNode, field: FieldPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, "a key must be plain text, not a list or a mapping")
            key = self.text(key_node)
            if key == "<<":
                raise self.error(key_node, "merge keys (<<) are not supported; write the fields out")
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            if key in result:
                first = self.marks[(*field, key)][0]
                raise self.error(
                    key_node, f"{dotted((*field, key))} is given twice (first in line {first}); remove one"
                )
            self.marks[(*field, key)] = (line, column)
            result[key] = self.read(value_node, (*field, key), depth + 1)
        return result

    def error(self, node: yaml.Node, message: str) -> YamlError:
        return YamlError(f"{self.path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}: {message}")


def _scalar(node: yaml.ScalarNode, text: str) -> Any:
    """Type a scalar by the YAML 1.2 core schema; quoted and block scalars are text."""
    if node.style is not None:
        return text
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        # int() refuses more digits than sys.get_int_max_str_digits; no real number is that long.
        base = 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10
        return int(text, base) if len(text) <= 4000 else text
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text
