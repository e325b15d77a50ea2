"""Templates of questions: a small, safe part of Jinja2, filled from metadata, sidecars and a job's variables.

Promises: a template can only read `media`, `clip` and `vars`, choose between texts and format values; it reaches no
Python object, runs no loop, and its output is bounded. What it may not do is refused when it is compiled, what does not
exist when it is filled. Knows nothing about question sets or files.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment

from omnidrop.errors import QuestionError, first_line
from workers.records import Media, MediaInfo

Scalar = str | bool | int | float

MAX_RENDERED_CHARS = 8_000
"""About 2,000 tokens: a longer question costs more than the clip it is asked about."""
MAX_SOURCE_CHARS = 20_000
MAX_DEPTH = 40
"""Of nodes within nodes. A sum nests once for each term; Python's compiler takes 100 levels of blocks."""
MAX_NUMBER = 10**18
MAX_PRECISION = 20
MAX_METADATA_CHARS = 500
"""Container tags are untrusted and may hold a whole file."""

MEDIA_FIELDS = (
    "key",
    "name",
    "stem",
    "folder",
    "size_bytes",
    "container",
    "duration_s",
    "width",
    "height",
    "frame_rate",
    "video_codec",
    "audio_codec",
    "has_video",
    "has_audio",
    "tags",
    "meta",
)
"""What `media.` offers; those that a file does not have are undefined for it."""
LABEL_FIELDS = ("key", "name", "stem", "folder")
"""What templates can read of an item's key, which is not in its content. The rest of what they can read beside the
content are the names of `context_names`: words of sidecars."""
CLIP_FIELDS = ("transcript", "chapter")
"""What `clip.` offers where sidecars of the file say it: in a clip where nothing is said, or that is in no chapter,
an empty text."""
META_NAMES = (
    *("title", "description", "subject", "creator", "uploader", "channel", "contributor", "publisher", "date"),
    *("upload_date", "language", "coverage", "categories", "tags"),
)
"""What `media.meta.` offers: fields of yt-dlp, Dublin Core and EBUCore, in the order in which a prompt has them."""

_FILTER_NAMES = ("default", "d", "lower", "upper", "title", "capitalize", "trim", "truncate", "round", "int", "float")
_TEST_NAMES = ("defined", "undefined", "none", "string", "number")
_ALLOWED: tuple[type[nodes.Node], ...] = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Slice,
    nodes.Const,
    nodes.List,
    nodes.Tuple,
    nodes.Filter,
    nodes.Keyword,
    nodes.Test,
    nodes.If,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Neg,
    nodes.Pos,
    nodes.Add,
    nodes.Sub,
    nodes.Mul,
    nodes.Div,
    nodes.FloorDiv,
    nodes.Mod,
    nodes.Concat,
)
"""No calls, loops, assignments, macros or powers: with these alone, time and memory are linear in the text."""


class _Names(Mapping[str, Any]):
    """A mapping whose methods are not reachable as `media.items`: only its keys are attributes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _Environment(ImmutableSandboxedEnvironment):
    # `"x" * 10**9` and `"%999999999d" % 1` would fill the memory, so operators but + are for numbers only.
    intercepted_binops = frozenset({"*", "%", "+", "-", "/", "//"})
    _numeric: Mapping[str, Callable[[Any, Any], Any]] = {
        **{"*": operator.mul, "%": operator.mod, "+": operator.add, "-": operator.sub},
        **{"/": operator.truediv, "//": operator.floordiv},
    }

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        are_texts = operator == "+" and isinstance(left, str) and isinstance(right, str)
        if not are_texts and not all(isinstance(value, int | float) for value in (left, right)):
            raise QuestionError(f"{operator} is for numbers, got {type(left).__name__} and {type(right).__name__}")
        result = self._numeric[operator](left, right)
        if not isinstance(result, str) and not abs(result) <= MAX_NUMBER:
            raise QuestionError(f"{operator} gives a number beyond {MAX_NUMBER:.0e}")
        return result

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, _Names):
            return self.getitem(obj, attribute)
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, _Names):
            return obj[argument] if argument in obj else self.undefined(obj=obj, name=str(argument))
        if isinstance(obj, str) and isinstance(argument, int | slice):
            try:
                return obj[argument]
            except (IndexError, TypeError, ValueError):
                return self.undefined(obj=obj, name=str(argument))
        return self.undefined(obj=obj, name=str(argument))


def _replace(text: object, old: object, new: object) -> str:
    """`replace` whose output is bounded: chained, the stock filter grows exponentially."""
    result = str(text).replace(str(old), str(new)) if str(old) else str(text)
    return result[:MAX_RENDERED_CHARS]


def _round(value: Any, precision: Any = 0, method: str = "common") -> Any:
    """`round` whose precision is bounded: the stock filter raises ten to it, which takes for ever."""
    if not isinstance(precision, int) or abs(precision) > MAX_PRECISION:
        raise QuestionError(f"round takes a precision of -{MAX_PRECISION} to {MAX_PRECISION}, got {precision!r:.50}")
    return FILTERS["round"](value, precision, method)


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)
    environment.globals.clear()
    environment.filters = {**{name: FILTERS[name] for name in _FILTER_NAMES}, "replace": _replace, "round": _round}
    environment.tests = {name: environment.tests[name] for name in _TEST_NAMES}
    return environment


@lru_cache(maxsize=4096)
def compile_template(source: str) -> Template:
    """Check and compile one template. Raises QuestionError naming the line inside the template and what is allowed."""
    environment = _environment()
    if len(source) > MAX_SOURCE_CHARS:
        raise QuestionError(f"not a valid template: longer than the {MAX_SOURCE_CHARS} characters allowed")
    try:
        tree = environment.parse(source)
        _check(tree, environment)
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # Python's, of `1[0]`
            return environment.from_string(source)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        at = f" (line {line} of the template)" if line and "\n" in source else ""
        raise QuestionError(f"not a valid template{at}: {str(error.message).rstrip('.')}") from error
    except (RecursionError, SyntaxError, MemoryError) as error:  # Python's compiler has limits of its own
        raise QuestionError("not a valid template: nested too deeply") from error
    except (ValueError, OverflowError) as error:
        raise QuestionError(f"not a valid template: {first_line(error)}") from error


def _check_depth(tree: nodes.Template) -> None:
    level: list[nodes.Node] = [tree]
    for _ in range(MAX_DEPTH):
        level = [inner for node in level for inner in node.iter_child_nodes()]
        if not level:
            return
    raise QuestionError(f"not a valid template: nested deeper than the {MAX_DEPTH} levels allowed")


def _check(tree: nodes.Template, environment: _Environment) -> None:
    _check_depth(tree)
    for node in tree.find_all(nodes.Node):
        if isinstance(node, nodes.Name) and node.name not in ("media", "clip", "vars"):
            raise QuestionError(f"{node.name!r} does not exist in templates; there are media, clip and vars")
        if not isinstance(node, _ALLOWED):
            what = type(node).__name__.lower()
            raise QuestionError(
                f"{what!r} is not allowed in templates; allowed are {{{{ values }}}} of media, clip and vars, "
                "{% if %}, comparisons, arithmetic and filters"
            )
        # Jinja looks for filters and tests inside {% if %} only when it gets there.
        for kind, known in ((nodes.Filter, environment.filters), (nodes.Test, environment.tests)):
            if isinstance(node, kind) and node.name not in known:
                allowed = ", ".join(sorted(known))
                raise QuestionError(f"there is no {kind.__name__.lower()} {node.name!r}; allowed: {allowed}")
        if isinstance(node, nodes.Const) and isinstance(node.value, int | float) and not abs(node.value) <= MAX_NUMBER:
            raise QuestionError(f"a number beyond {MAX_NUMBER:.0e} is not allowed in templates")
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            raise QuestionError(f"{node.attr!r} is not allowed in templates: names start with a letter")


@lru_cache(maxsize=4096)
def used_names(source: str) -> frozenset[tuple[str, ...]]:
    """The chains that a template reads, as in `("media", "tags", "title")`, each as long as it is written out."""
    chains: set[tuple[str, ...]] = set()

    def chain(node: nodes.Node) -> tuple[str, ...] | None:
        if isinstance(node, nodes.Name):
            return (node.name,)
        if isinstance(node, nodes.Getattr) and (inner := chain(node.node)) is not None:
            return (*inner, node.attr)
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return None if (inner := chain(node.node)) is None else (*inner, node.arg.value)
        return None

    tree = _environment().parse(source)
    for node in tree.find_all((nodes.Name, nodes.Getattr, nodes.Getitem)):
        if (found := chain(node)) is not None:
            chains.add(found)
    longer = {found[:length] for found in chains for length in range(1, len(found))}
    return frozenset(chains - longer)


@dataclass(frozen=True)
class Told:
    """What sidecars say, as templates see it: what they do not say is undefined."""

    clip: Mapping[str, str] = field(default_factory=dict)
    """A subset of `CLIP_FIELDS`."""
    meta: Mapping[str, str] = field(default_factory=dict)
    """A subset of `META_NAMES`."""

    def value(self, name: str) -> str | None:
        """What a template reads as `name`: `clip.transcript`, `media.meta.title`."""
        root, _, last = name.rpartition(".")
        return (self.clip if root == "clip" else self.meta).get(last)


UNTOLD = Told()


def context_names(sources: Iterable[str]) -> tuple[str, ...]:
    """What templates read of sidecars, sorted: `clip.chapter`, `clip.transcript`, `media.meta.NAME`."""
    chains = {chain for source in sources for chain in used_names(source)}
    return tuple(sorted(".".join(c) for c in chains if c[0] == "clip" or c[:2] == ("media", "meta")))


def names_read(root: str, templates: Iterable[str]) -> set[str]:
    """What templates read below `root`: of `media.tags.title` the `tags`."""
    chains = (chain for template in templates for chain in used_names(template))
    return {chain[1] for chain in chains if chain[0] == root and len(chain) > 1}


def render(source: str, media: Mapping[str, Any], variables: Mapping[str, Scalar], told: Told = UNTOLD) -> str:
    """Fill one template. Raises QuestionError naming what does not exist for this media item and what does."""
    if "{" not in source and len(source) <= MAX_RENDERED_CHARS:
        # Most options and many questions: 50 us each, and an archive of a million media asks for 22 million.
        return source.strip()
    inner = {"tags": _Names(media.get("tags", {})), "meta": _Names(told.meta)}
    context = {"media": _Names({**media, **inner}), "clip": _Names(told.clip), "vars": _Names(variables)}
    most = MAX_RENDERED_CHARS + sum(map(len, told.clip.values()))
    template = compile_template(source)
    parts: list[str] = []
    length = 0
    try:
        for part in template.generate(context):
            length += len(part)
            if length > most:
                raise QuestionError(f"renders to more than the {most} characters allowed")
            parts.append(part)
    except TemplateError as error:
        missing = [names for names in sorted(used_names(source)) if not _exists(names, context)]
        raise QuestionError("; ".join(_missing(names, context) for names in missing) or str(error.message)) from error
    except QuestionError:
        raise
    except Exception as error:  # filters and operators raise what they like
        raise QuestionError(f"cannot be filled: {first_line(error)}") from error
    return "".join(parts).strip()


def _exists(names: tuple[str, ...], context: Mapping[str, Any]) -> bool:
    value: Any = context
    for name in names:
        if not isinstance(value, Mapping) or name not in value:
            return False
        value = value[name]
    return True


def _missing(names: tuple[str, ...], context: Mapping[str, Any]) -> str:
    value: Any = context
    depth = 0
    while depth < len(names) - 1 and isinstance(value, Mapping) and names[depth] in value:
        value = value[names[depth]]
        depth += 1
    parent = ".".join(names[:depth])
    there = ", ".join(sorted(value)) if isinstance(value, Mapping) and len(value) else "nothing"
    name = ".".join(names)
    optional = f"{{{{ {name} | default('...') }}}}"
    return f"{name} does not exist here; {parent} has: {there}; write {optional} if it may be missing"


def media_context(media: Media, info: MediaInfo) -> dict[str, Any]:
    """What templates see of a media item; fields that it does not have are left out, and so are tags of blanks alone.

    Texts come from strangers' files, so they are cut to one line of `MAX_METADATA_CHARS`, and cannot be read as a
    model's special tokens.
    """
    folder, _, name = media.key.rpartition("/")
    values: dict[str, Any] = {
        "key": media.key,
        "name": name,
        "stem": name.rpartition(".")[0] or name,
        "folder": folder,
        "size_bytes": media.size_bytes,
        "container": info.container,
        "duration_s": info.duration_s,
        "width": info.width,
        "height": info.height,
        "frame_rate": info.frame_rate,
        "video_codec": info.video_codec,
        "audio_codec": info.audio_codec,
        "has_video": info.has_video,
        "has_audio": info.has_audio,
    }
    context = {k: one_line(v) if isinstance(v, str) else v for k, v in values.items() if v is not None}
    tags = ((name, one_line(text)) for name, text in info.tags)
    return {**context, "tags": {name: text for name, text in tags if text}}


def one_line(text: str, most: int = MAX_METADATA_CHARS) -> str:
    """Untrusted text as part of a prompt: no control characters, no line breaks, no `<|special|>` token, bounded."""
    text = text[: 4 * most].encode("utf-8", "replace").decode("utf-8")
    printable = "".join(character if character.isprintable() else " " for character in text)
    broken = re.sub(r"<(?=\|)", "< ", re.sub(r"\|(?=>)", "| ", printable))
    return " ".join(broken.split())[:most]
