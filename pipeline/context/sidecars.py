"""Files beside a media file that say what is said in it and what it is: subtitles, transcripts, metadata.

Promises: a sidecar is a stranger's file: it lies in the media file's own folder (a link out of it is not followed), its
size and what is taken from it are bounded, and all its words are cleaned like a container's tags. One that cannot be
read is an error with its name, or a note if the user did not name it. Knows nothing about models or questions.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import pysubs2

from omnidrop.errors import UserError
from omnidrop.json_text import parse_json
from pipeline.normal_forms import composed
from pipeline.questions.templates import META_NAMES, one_line
from workers.errors import MediaError
from workers.media.opening import opened_below

MOST_BYTES = 4 << 20
"""Twenty hours of subtitles take 2 MB."""
MOST_CUES = 200_000
MOST_CUE_CHARS = 2000
WORDS = (".vtt", ".srt", ".ass", ".ssa", ".txt")
"""What is said; the first there is counts."""
META = (".info.json", ".json", ".xml")
"""What it is; all there are count, the first for a name that several give."""
MOST_META_CHARS = 300
_LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_STYLE = re.compile(r"\{[^{}\n]*\}")
_DRAWING = re.compile(r"^.*\{[^{}\n]*\\p[1-9].*$", re.MULTILINE)
_NO_MARKS = str.maketrans({"{": "(", "}": ")", "<": "("})
_BREAK = re.compile(r"\\[Nnh]")
_TAG = re.compile(r"<[^<>]{0,200}>")
_BLANK = re.compile(r"^[ \t]*\[[^\]\n]*\][^\n]*|^[A-Za-z0-9 ]{1,40}:[^\n]*$|WEBVTT[^\n]*|\s", re.MULTILINE)
"""What subtitles without a line have: titles of sections, settings, blanks. A title is looked for where a line begins
alone: anywhere else, a line of brackets takes time that grows with the square of its length."""


class ContextError(UserError):
    """A sidecar that cannot be used."""

    error_class = "context"


class HoldsNothing(ValueError):
    """The sidecar is readable but has nothing to use: subtitles without a line, metadata of another kind."""


@dataclass(frozen=True)
class Cue:
    """Words with the time in which they hold; without an end they hold for the whole item."""

    start_s: float
    end_s: float | None
    text: str

    def is_in(self, start_s: float, end_s: float) -> bool:
        """Whether it holds at some moment of a span."""
        return self.start_s < end_s and (self.end_s is None or self.end_s > start_s)


@dataclass(frozen=True)
class Context:
    """What sidecars say about one media item."""

    cues: tuple[Cue, ...] = ()
    chapters: tuple[Cue, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    """A subset of META_NAMES."""
    used: tuple[str, ...] = ()
    """Names of the files that it comes from."""
    notes: tuple[str, ...] = ()
    """What could not be used, and why."""

    def said(self, start_s: float, end_s: float) -> str:
        """The transcript of a span: what holds at some moment of it, in the order of time."""
        return " ".join(cue.text for cue in self.cues if cue.is_in(start_s, end_s))

    def chapter(self, start_s: float, end_s: float) -> str:
        """The chapters of a span, each once."""
        return " / ".join(dict.fromkeys(one.text for one in self.chapters if one.is_in(start_s, end_s)))


def beginning(words: str, most: int) -> str:
    """Of a text `most` characters, up to the last whole word."""
    return words if len(words) <= most else words[:most].rpartition(" ")[0] or words[:most]


def beside(path: str) -> list[str]:
    """The sidecars of a media file, the first to take first."""
    folder, name = os.path.split(os.path.abspath(path))
    with os.scandir(folder) as entries:
        found = sidecars_of(name, [entry.name for entry in entries])
    return [os.path.join(folder, name) for name in found]


def sidecars_of(name: str, there: Iterable[str], language: str | None = None) -> list[str]:
    """Of the names in a media file's folder those of its sidecars, the first to take first: those with its stem, and
    perhaps a language, as in `talk.en.vtt`. Transcripts in `language` come before others, the stem as it is before
    another normal form of it."""
    stem = composed(name.rpartition(".")[0] or name)
    found = []
    for one in there:
        written = composed(one)
        rest = written.removeprefix(stem)
        if one == name or rest == written:
            continue
        kind = next((i for i, suffix in enumerate((*WORDS, *META)) if rest.lower() == suffix), None)
        said_in = _LANGUAGE.match(rest)
        if kind is None and said_in is not None:
            suffix = rest[said_in.end() :].lower()
            if suffix in WORDS:
                is_wanted = language is not None and rest[: said_in.end()].lower() == f".{language.lower()}"
                found.append((-1 if is_wanted else len(WORDS + META), WORDS.index(suffix), one))
        elif kind is not None:
            found.append((kind, 0, one))
    own = name.rpartition(".")[0] or name
    return [one for _, _, one in sorted(found, key=lambda found: (*found[:2], not found[2].startswith(own), found[2]))]


def is_words(name: str) -> bool:
    """Whether a sidecar's name says that it holds what is said."""
    return name.lower().endswith(WORDS)


def is_sidecar(name: str) -> bool:
    """Whether a name is that of a file that can be read as context."""
    return name.lower().endswith((*WORDS, *META))


def joined(first: Context, more: Context) -> Context:
    """What two sidecars say, where the first has its say first."""
    meta = {**more.meta, **first.meta}
    used, notes = (*first.used, *more.used), (*first.notes, *more.notes)
    return Context(first.cues or more.cues, first.chapters or more.chapters, meta, used, notes)


def read_context(path: str, given: Iterable[str] | None = None) -> Context:
    """What the files named in `given`, or else those beside `path`, say about it. Raises ContextError for one that was
    named and cannot be used."""
    context = Context()
    for sidecar in beside(path) if given is None else given:
        if is_words(sidecar) and context.cues:
            continue
        try:
            read = _read(sidecar, None if given is not None else os.path.dirname(sidecar))
        except ContextError as error:
            if given is not None:
                raise
            context = replace(context, notes=(*context.notes, str(error)))
            continue
        context = joined(context, replace(read, used=(os.path.basename(sidecar),)))
    return context


def _read(path: str, folder: str | None) -> Context:
    name = os.path.basename(path)
    try:
        with opened_below(path, folder) as checked, os.fdopen(os.dup(checked.fd), "rb") as file:
            data = file.read(MOST_BYTES + 1)
        return parsed(name, data)
    except (MediaError, HoldsNothing) as error:
        raise ContextError(f"{name}: cannot be read as context: {_said(error)}") from error


def parsed(name: str, data: bytes) -> Context:
    """What a sidecar of this name says; `data` is its first `MOST_BYTES` + 1 bytes at most. Raises HoldsNothing, and
    ContextError where it cannot be read."""
    reader = next((read for suffix, read in _READERS.items() if name.lower().endswith(suffix)), None)
    if reader is None:
        raise ContextError(f"{name}: cannot be read as context; give one of *{', *'.join((*WORDS, *META))}")
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES >> 20} MiB")
        return reader(data)
    except HoldsNothing:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, ET.ParseError) as error:
        raise ContextError(f"{name}: cannot be read as context: {_said(error)}") from error
    except (pysubs2.Pysubs2Error, RecursionError) as error:
        raise ContextError(f"{name}: cannot be read as subtitles: {_said(error)}") from error


def _said(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}" if not isinstance(error, MediaError) else str(error))


def _text(data: bytes) -> str:
    """Raises ValueError for other encodings: guessed wrong, they would be other words."""
    try:
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("neither UTF-8 nor UTF-16; convert it, as with iconv -f WINDOWS-1252 -t UTF-8") from None


def _subtitles(form: str) -> Callable[[bytes], Context]:
    def read(data: bytes) -> Context:
        # Styles and tags are taken out here: pysubs2 takes time that grows with the square of their length.
        text = _TAG.sub("", _STYLE.sub("", _DRAWING.sub("", _text(data)))).translate(_NO_MARKS)
        events = pysubs2.SSAFile.from_string(text, format_=form).events
        cues = []
        for event in sorted(events[:MOST_CUES], key=lambda e: (e.start, e.end)):
            words = one_line(event.plaintext, MOST_CUE_CHARS)
            if words and not event.is_comment and event.end > event.start:
                cues.append(Cue(event.start / 1000, event.end / 1000, words))
        if not cues:
            # Of a file whose times cannot be read nothing is left, either.
            kind = HoldsNothing if events or not _BLANK.sub("", text) else ValueError
            raise kind("it holds no subtitles")
        return Context(cues=tuple(without_repeats(cues)))

    return read


def line_of(text: str) -> str:
    """An event's text as one line without styles and tags; empty for a drawing."""
    if _DRAWING.search(text):
        return ""
    plain = _TAG.sub("", _STYLE.sub("", text)).translate(_NO_MARKS)
    return one_line(_BREAK.sub(" ", plain), MOST_CUE_CHARS)


def without_repeats(cues: Iterable[Cue]) -> Iterator[Cue]:
    """Captions that roll show every line twice: what the one before ended with is left out."""
    before = ""
    for cue in cues:
        text = cue.text
        if before and text.startswith(before):
            text = text[len(before) :].strip()
        before = cue.text if text else before
        if text:
            yield Cue(cue.start_s, cue.end_s, text)


def _plain(data: bytes) -> Context:
    words = one_line(_text(data), MOST_BYTES)
    if not words:
        raise HoldsNothing("it holds no words")
    return Context(cues=(Cue(0.0, None, words),))


def _json(data: bytes) -> Context:
    given = parse_json(data)
    if not isinstance(given, dict):
        raise HoldsNothing("not an object")
    chapters = []
    for one in list(given.get("chapters") or ())[:MOST_CUES]:
        title = one_line(str(one.get("title") or ""), MOST_META_CHARS)
        if title:
            chapters.append(Cue(float(one["start_time"]), float(one["end_time"]), title))
    meta = {name: value for name in META_NAMES if (value := _words_of(given.get(name)))}
    if not meta and not chapters:
        raise HoldsNothing(f"it has none of {', '.join(META_NAMES)}")
    return Context(chapters=tuple(chapters), meta=meta)


def _words_of(value: object) -> str:
    parts = value if isinstance(value, list) else [value]
    return one_line(", ".join(str(part) for part in parts[:50] if isinstance(part, str | int | float)), MOST_META_CHARS)


class _NoTypes(ET.TreeBuilder):
    """Told by the parser itself, whatever the encoding: entities can be declared within a DOCTYPE alone."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it declares its own types or entities (DOCTYPE, ENTITY)")


def _xml(data: bytes) -> Context:
    found: dict[str, list[str]] = {}
    for element in ET.fromstring(data, ET.XMLParser(target=_NoTypes())).iter():
        name = element.tag.rpartition("}")[2].lower()
        # EBUCore has the words of <title> in a Dublin Core element of the same name inside it.
        if name in META_NAMES and (words := one_line(element.text or "", MOST_META_CHARS)):
            found.setdefault(name, []).append(words)
    if not found:
        raise HoldsNothing(f"it has none of {', '.join(META_NAMES)}")
    return Context(meta={name: one_line(", ".join(dict.fromkeys(found[name])), MOST_META_CHARS) for name in found})


_READERS: Mapping[str, Callable[[bytes], Context]] = {
    ".vtt": _subtitles("vtt"),
    ".srt": _subtitles("srt"),
    ".ass": _subtitles("ass"),
    ".ssa": _subtitles("ssa"),
    ".txt": _plain,
    ".json": _json,
    ".xml": _xml,
}
