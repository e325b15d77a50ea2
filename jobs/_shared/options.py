"""Command-line options made from the job's own model, and the `--json FILE` that every command takes.

Promises: every setting of a job file is an option of every command wrapped in `with_job`, with the same name, meaning
and checks; a JSON file is there whole or not at all. Knows nothing about what any setting means.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import math
import shlex
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs._shared.terminal import on_terminal
from jobs._shared.whole_file import replaced
from omnidrop.errors import UserError
from pipeline.config.job import JobConfig, load_job
from pipeline.config.validation_errors import option_name
from pipeline.config.yaml_source import parse_yaml

log = logging.getLogger(__name__)

UNSET = "none"
"""What to give an option to take a setting back to not given."""

_given = ContextVar("the job as the running command was given it", default="JOB.yaml")
_read_again: ContextVar[Callable[[], JobConfig]] = ContextVar("the same, read from its file again")

JobFile = Annotated[
    Path,
    typer.Argument(
        metavar="JOB.yaml", help="The job file. Each of its settings is also an option.", show_default=False
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", help="Also write the result as JSON (- for standard output).", show_default=False
    ),
]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of the job's model as an option."""

    path: tuple[str, ...]
    info: FieldInfo

    @property
    def parameter(self) -> str:
        """The Python parameter's name."""
        return "__".join(self.path)

    @property
    def names(self) -> tuple[str, ...]:
        """The option's names: the one made from the path, and a short one where the model gives it."""
        extra = self.info.json_schema_extra
        short = extra.get("option") if isinstance(extra, dict) else None
        full = option_name(self.path)
        return (full,) if short is None else (str(short), full)

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types its value may have, without annotations."""
        return tuple(_plain(self.info.annotation))

    @property
    def is_list(self) -> bool:
        """Whether it may be given several times."""
        return any(typing.get_origin(kind) in (tuple, list) for kind in self.kinds)

    @property
    def is_mapping(self) -> bool:
        """Whether it is given as NAME=VALUE, several times."""
        return any(typing.get_origin(kind) is dict for kind in self.kinds)

    @property
    def is_switch(self) -> bool:
        """Whether it is given as --NAME or --no-NAME."""
        return set(self.kinds) - {type(None)} == {bool}

    def as_parameter(self) -> inspect.Parameter:
        """The parameter that Typer turns into an option. Values stay text: the model checks them, as in the file."""
        names: tuple[str, ...] = self.names
        annotation: Any = str | None
        if self.is_switch:
            annotation = bool | None
            names = tuple(f"{name}/--no-{name.removeprefix('--')}" for name in names)
        elif self.is_list or self.is_mapping:
            annotation = list[str] | None
        option = typer.Option(
            *names,
            metavar=None if self.is_switch else self.value_text(),
            help=self.info.description,
            rich_help_panel=_PANELS.get(self.path[0] if len(self.path) > 1 else "", self.path[0].capitalize()),
            show_default=self.default_text() or False,
        )
        return inspect.Parameter(
            self.parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, option]
        )

    def overrides(self, value: Any) -> Iterator[tuple[str, object]]:
        """Dotted field names and values for `load_job`, nothing where the option was not given."""
        name = ".".join(self.path)
        if value is None or value == []:
            return
        if self.is_mapping:
            for item in value:
                key, text = named_value(self.names[0], item)
                yield f"{name}.{key}", scalar(text)
        elif value == UNSET and type(None) in self.kinds:
            yield name, None
        else:
            yield name, value

    def arguments(self, value: Any) -> Iterator[str]:
        """The words of a command line that give this value again."""
        if isinstance(value, bool):
            yield self.names[0] if value else f"--no-{self.names[0].removeprefix('--')}"
        elif value is not None:
            for item in value if isinstance(value, list) else [value]:
                yield from (self.names[0], str(item))

    def value_text(self) -> str:
        """What may be given, as help shows it."""
        if self.is_mapping:
            return "NAME=VALUE"
        extra = self.info.json_schema_extra
        if isinstance(extra, dict) and isinstance(choices := extra.get("choices"), list):
            return "|".join(map(str, choices))
        words = []
        for kind in self.kinds:
            if typing.get_origin(kind) is typing.Literal:
                words += [str(choice) for choice in typing.get_args(kind)]
            elif kind is not type(None):
                words.append({int: "INTEGER", float: "NUMBER", bool: "true|false"}.get(kind, "TEXT"))
        return "|".join(words)

    def default_text(self) -> str:
        """The default as it would be written, empty where there is none."""
        default = self.info.default
        if self.info.is_required() or self.info.default_factory is not None or default is None:
            return ""
        match default:
            case tuple():
                return " ".join(str(item) for item in default)
            case bool():
                return str(default).lower()
            case float():
                return f"{default:g}"
            case _:
                return str(default)


_PANELS = {
    "": "Job",
    "archive": "Archive",
    "model": "Model",
    "pruning": "Pruning",
    "clips": "Clips",
    "execution": "Execution",
    "cost": "Cost",
    "storage": "Storage",
}


def settings(model: type[BaseModel] = JobConfig, path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every setting of the job's model, section by section."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from settings(kind, (*path, name))
        else:
            yield Setting((*path, name), info)


def with_job(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn `command(job: JobConfig, ...)` into one that takes a job file and an option for every setting.

    The command's further parameters stay as they are; their annotations must be importable at run time.
    """
    all_settings = sorted(settings(), key=lambda setting: len(setting.path) > 1)
    signature = inspect.signature(command, eval_str=True)
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values() if p.name != "job"]

    def run(*, job_file: Path, **given: Any) -> Any:
        words = [word for setting in all_settings for word in setting.arguments(given[setting.parameter])]
        _given.set(shlex.join([str(job_file), *words]))
        overrides: dict[str, object] = {}
        for setting in all_settings:
            overrides.update(setting.overrides(given.pop(setting.parameter)))
        _read_again.set(partial(load_job, job_file, overrides))
        return command(load_job(job_file, overrides), **given)

    parameters = [
        inspect.Parameter("job_file", inspect.Parameter.KEYWORD_ONLY, annotation=JobFile),
        *own,
        *(setting.as_parameter() for setting in all_settings),
    ]
    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def job_as_given() -> str:
    """The job file and the options of the command that is running, to be given to another command."""
    return _given.get()


def job_now() -> JobConfig:
    """The job of the command that is running as its file says by now, with the same options. Raises JobError."""
    return _read_again.get()()


def settings_table() -> str:
    """Every setting as a Markdown table, for `docs/job-file.md`; `python -m jobs._shared.options` prints it."""
    rows = ["| field | option | value | default | |", "|---|---|---|---|---|"]
    for setting in sorted(settings(), key=lambda setting: len(setting.path) > 1):
        default = setting.default_text() or ("required" if setting.info.is_required() else "")
        value = setting.value_text().replace("|", " \\| ")
        rows.append(
            f"| `{'.'.join(setting.path)}` | `{setting.names[0]}` | {value} | {default.replace('*', chr(92) + '*')} | "
            f"{(setting.info.description or '').replace('*', chr(92) + '*').replace('|', chr(92) + '|')} |"
        )
    return "\n".join(rows) + "\n"


def write_json(path: Path | None, result: Mapping[str, Any] | Any) -> None:
    """Write a dataclass or a mapping where `--json` points; nothing where it was not given. Raises UserError."""
    if path is None:
        return
    text = json_text(result, indent=2) + "\n"
    if str(path) == "-":
        try:
            on_terminal(sys.stdout).write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # whoever read has gone
        except OSError as error:
            raise UserError(f"--json -: cannot be written: {error.strerror}") from error
        return
    with replaced(path, "--json") as file:
        file.write(text.encode())


def json_text(value: Any, indent: int | None = None) -> str:
    """Dataclasses, mappings, sequences and scalars as strict JSON; NaN and infinities become null, the rest text."""
    return json.dumps(_jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    return str(value)


def named_value(option: str, given: str) -> tuple[str, str]:
    """Name and value of `NAME=VALUE`. Raises UserError."""
    name, separator, value = given.partition("=")
    if not separator or not name:
        raise UserError(f"option {option}: write NAME=VALUE, given: {given!r}")
    return name, value


def scalar(text: str) -> str | bool | int | float:
    """A variable's value, typed as the same text would be in a job file; on a command line there are no comments."""
    try:
        document = parse_yaml(text, Path("--variable"))
    except UserError:
        return text
    value = document.value
    is_cut = document.cut or ("#" in text and not isinstance(value, str))
    if is_cut or not isinstance(value, str | bool | int | float):
        return text
    for written in document.written.values():
        said = "%s is read as the number %s; for the text, quote it twice, as in NAME='\"%s\"'"
        log.warning(said, text, value, written)
    return value


def _plain(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _plain(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _plain(member)
    else:
        yield annotation


if __name__ == "__main__":
    sys.stdout.write(settings_table())
