"""What may be looked for: words, conditions on questions, and, or, not, parentheses.

    red car                            both words in one answer
    "red car"                          in this order, side by side
    people > 2 and setting = studio    two conditions in the same clip
    (red car or "blue van") and not night = yes

Promises: text becomes a tree or an error that shows the place; nothing of it ever becomes SQL. Knows nothing about
which questions there are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from omnidrop.errors import UserError

MOST_CHARS = 2_000
MOST_DEPTH = 40
_TOKEN = re.compile(
    r"""\s*(?: "(?P<phrase>[^"]*)" | (?P<operator>>=|<=|!=|=|>|<) | (?P<mark>[()]) | (?P<word>[^\s()"<>=!]+|!) )""",
    re.VERBOSE,
)


class FindError(UserError):
    """What is looked for cannot be understood, or names what is not there."""

    error_class = "find"


@dataclass(frozen=True)
class Words:
    """Words, or phrases of several, that one answer holds together."""

    terms: tuple[str, ...]


@dataclass(frozen=True)
class Condition:
    """What the answer to a question must be."""

    question: str
    operator: str
    value: str


@dataclass(frozen=True)
class Not:
    """Clips of which `part` does not hold."""

    part: Node


@dataclass(frozen=True)
class All:
    """Clips of which every part holds."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Any:
    """Clips of which some part holds."""

    parts: tuple[Node, ...]


Node = Words | Condition | Not | All | Any


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int

    def means(self, word: str) -> bool:
        return self.kind == "word" and self.text.lower() == word


def parse(text: str) -> Node:
    """The tree of what is looked for. Raises FindError."""
    if len(text) > MOST_CHARS:
        raise FindError(f"the search has {len(text)} characters; up to {MOST_CHARS} are allowed")
    # No part of a word: control characters, and what a terminal gave that is no text.
    parser = _Parser("".join(c if c.isprintable() else " " for c in text))
    if parser.next is None:
        raise FindError(
            'the search is empty; give words, for example "red car", or conditions, for example "people > 2"'
        )
    return parser.whole()


class _Parser:
    """Recursive descent, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._place = 0

    @property
    def next(self) -> _Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def whole(self) -> Node:
        found = self.any_of(0)
        if self.next is not None:
            raise self.error(f"unexpected {self.next.text}")
        return found

    def any_of(self, depth: int) -> Node:
        parts = [self._all_of(depth)]
        while self._skip("or"):
            parts.append(self._all_of(depth))
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def error(self, says: str) -> FindError:
        at = len(self._text) if self.next is None else self.next.at
        return FindError(f"{says}:\n  {self._text}\n  {' ' * at}^")

    def _all_of(self, depth: int) -> Node:
        parts = [self._one(depth)]
        # Side by side means and, as in any search.
        while self._skip("and") or not (self.next is None or self.next.means("or") or self.next.text == ")"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self, depth: int) -> Node:
        if depth > MOST_DEPTH:
            raise self.error(f"more than {MOST_DEPTH} nested parentheses and nots")
        if self._skip("not"):
            return Not(self._one(depth + 1))
        token = self.next
        if token is not None and token.kind == "mark" and token.text == "(":
            self._place += 1
            inside = self.any_of(depth + 1)
            if self.next is None or self.next.text != ")":
                raise self.error("a ) is missing")
            self._place += 1
            return inside
        if token is not None and token.kind in ("word", "phrase"):
            if self._is_condition():
                return self._condition(token)
            if not (token.means("and") or token.means("or")):
                return self._words()
        raise self.error("words or a condition expected here")

    def _condition(self, name: _Token) -> Condition:
        operator = self._tokens[self._place + 1].text
        self._place += 2
        value = self.next
        if value is None or value.kind not in ("word", "phrase"):
            raise self.error(
                f'a value is missing after {name.text} {operator}; quote one of several words, as in "a b"'
            )
        self._place += 1
        return Condition(name.text, operator, value.text)

    def _words(self) -> Words:
        terms: list[str] = []
        while (token := self.next) is not None and token.kind in ("word", "phrase") and not self._is_condition():
            if any(token.means(word) for word in ("and", "or", "not")):
                break
            if any(map(str.isalnum, token.text)):
                terms.append(token.text)
            self._place += 1
        if not terms:
            raise self.error("a search word needs at least one letter or digit")
        return Words(tuple(terms))

    def _is_condition(self) -> bool:
        place = self._place + 1
        return place < len(self._tokens) and self._tokens[place].kind == "operator"

    def _skip(self, word: str) -> bool:
        if self.next is None or not self.next.means(word) or self._is_condition():
            return False
        self._place += 1
        return True

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        at, end = 0, len(self._text.rstrip())
        while at < end:
            match = _TOKEN.match(self._text, at)
            if match is None:
                self._tokens, self._place = [_Token("", "", at)], 0
                raise self.error('a closing " is missing')
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match[kind], match.start(kind) - (kind == "phrase")))
            at = match.end()
        return tokens
