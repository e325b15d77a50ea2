"""The command line: `omnidrop COMMAND ...`, each command in a module of its own that is imported when it is called.

Promises: `omnidrop --help` imports no model, no Ray and no database; a user's mistake ends with one plain message on
standard error and status 2, any other failure with status 1, and no traceback is shown unless asked for. Knows nothing
about what the commands do.

A command's module `jobs/NAME.py` offers a function `command`, whose docstring is its help, and may offer `EXAMPLES`,
lines shown below it. It ends with `if __name__ == "__main__": main("NAME")`, so that `python -m jobs.NAME` is the same.
A command with commands of its own is a folder `jobs/NAME/`, whose `SUBCOMMANDS` name its modules.
"""

from __future__ import annotations

import contextlib
import difflib
import enum
import errno
import functools
import importlib
import importlib.util
import inspect
import io
import logging
import os
import sys
import tempfile
import threading
import traceback
import typing
from collections.abc import Mapping
from types import TracebackType
from typing import Annotated, Any, NoReturn

import typer
import typer.core
import typer.main

from jobs._shared import interrupts
from jobs._shared.terminal import PrintableWarnings, say
from omnidrop.errors import OmniDropError, UserError, first_line
from omnidrop.imports import own_process, uncollected
from workers.redaction import without_secrets

COMMANDS = {
    "demo": "Make a small archive of real videos, index it and show what came out.",
    "ask": "Ask questions about one video or audio file.",
    "inspect": "Show the tracks and clips of one file as the model would see them.",
    "index": "Answer a job's questions about every new or changed clip of its archive.",
    "schedule": "Run a job on a cron schedule. Runs never overlap.",
    "submit": "Run a job on a Ray cluster, follow its log, or stop it.",
    "plan": "Estimate media, clips, tokens and FLOPs of a job without loading a model.",
    "calibrate": "Measure how fast the job's model is, so that plans can show GPU hours and cost.",
    "validate": "Check everything that a job needs before it uses a GPU.",
    "evaluate": "Measure the accuracy lost by pruning, per task and ratio.",
    "audit": "Show what pruning saved and changed, measured on clips that were also run dense.",
    "explain": "Show which tokens of a clip were kept and what each question attended to.",
    "query": "Query the published results with SQL or a named query.",
    "find": "Find moments by words in answers and by conditions on questions.",
    "review": "Label answers as right or wrong on a local page that plays each moment.",
    "report": "Show a job's results on one page: savings, answers, failures.",
    "export": "Export moments to editors and players, or clips and answers to Iceberg tables.",
    "status": "Show the progress of a job and the cost of its runs.",
    "selfcheck": "Check that a checkpoint gives the same answers here as the stock model, in every mode.",
    "retry": "Retry failed clips and media by error class.",
    "verify": "Check that journal, tables and index are complete and agree.",
    "sign": "Sign the published tables with your own key.",
    "forget": "Erase a media item's results permanently.",
    "rebuild": "Rebuild the published tables and the savings index from the journal.",
}
"""Names and summaries, in the order of the help; the modules are imported when they are called."""


_NO_THREADS = "no more threads or processes can be started (`ulimit -u`, `-v`, the container's limits)"

_TYPES = {"bool": "", "str": "TEXT", "list[str]": "TEXT", "float": "NUMBER", "int": "INTEGER", "path": "PATH"}
_TYPES |= {"int range": "INTEGER", "float range": "NUMBER"}
"""What help calls the value of an option; a flag has none."""


def _name_types(command: typer.core.TyperCommand | typer.core.TyperGroup, ctx: Any) -> None:
    """Have help name the values of options plainly, not by Python's types, and arguments by their name alone."""
    for param in typing.cast("list[typer.core.TyperArgument | typer.core.TyperOption]", command.get_params(ctx)):
        kind = param.display_type(ctx).strip("<>")
        shown = "" if isinstance(param, typer.core.TyperArgument) else param.metavar or _TYPES.get(kind, kind)
        param.display_type_rich = functools.partial(_same, shown)  # type: ignore[method-assign]


def _same(shown: str, ctx: Any) -> str:
    return shown


class _Command(typer.core.TyperCommand):
    """A command as its help shows it."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _name_types(self, ctx)
        super().format_help(ctx, formatter)


class _Stub(typer.core.TyperCommand):
    """Stands for a command in the list of commands, so that its module need not be imported."""

    def __init__(self, name: str, summary: str) -> None:
        super().__init__(name=name, help=summary, callback=None)


class _Folder(typer.core.TyperGroup):
    """The commands whose modules lie in a folder, each imported when it is called."""

    package = "jobs"
    summaries: Mapping[str, str] = COMMANDS

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _name_types(self, ctx)
        super().format_help(ctx, formatter)

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in self.summaries if importlib.util.find_spec(_module(name, self.package)) is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _Stub(cmd_name, self.summaries[cmd_name]) if cmd_name in self.list_commands(ctx) else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.summaries:
            close = difflib.get_close_matches(args[0], self.summaries, n=1)
            hint = f"did you mean {close[0]}?" if close else f"allowed: {', '.join(self.summaries)}"
            ctx.fail(f"No such command {args[0]!r}; {hint}")
        name, stub, rest = super().resolve_command(ctx, args)
        if isinstance(stub, _Stub) and name is not None:
            return name, load_command(name, self.package), rest
        return name, stub, rest


class _Commands(_Folder):
    """The root command: turns our own errors into messages and exit statuses."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # --debug is understood wherever it stands, because people add it to the end of a command that has just failed.
        end = args.index("--") if "--" in args else len(args)
        ctx.meta["debug"] = "--debug" in args[:end] or bool(os.environ.get("OMNIDROP_DEBUG"))
        return super().parse_args(ctx, [arg for at, arg in enumerate(args) if arg != "--debug" or at > end])

    def invoke(self, ctx: Any) -> Any:
        try:
            return self._invoked(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except (KeyboardInterrupt, Exception) as error:
            # A library may have made an error of its own of the interrupt.
            if not isinstance(error, KeyboardInterrupt) and interrupts.exit_status() is None:
                raise
            say(f"omnidrop: {interrupts.said()}", err=True)
            raise typer.Exit(interrupts.exit_status() or 130) from error

    def _invoked(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except OmniDropError as error:
            if interrupts.exit_status() is not None:
                raise
            if ctx.meta["debug"]:
                say(without_secrets(traceback.format_exc()), err=True)
            say(f"omnidrop: error: {without_secrets(str(error))}", err=True)
            raise typer.Exit(2 if isinstance(error, UserError) else 1) from error
        except OSError as error:
            if "No usable temporary directory" in str(error) and not ctx.meta["debug"]:
                say("omnidrop: error: no temporary folder can be written; make room, or set TMPDIR to one", err=True)
                raise typer.Exit(2) from error
            # A disk or a mount at a place where nobody expected it to fail.
            if error.filename is None or ctx.meta["debug"] or interrupts.exit_status() is not None:
                raise
            say(f"omnidrop: error: {without_secrets(f'{error.filename}: {error.strerror}')}", err=True)
            raise typer.Exit(1) from error


@functools.cache
def load_command(name: str, package: str = "jobs") -> typer.core.TyperCommand | typer.core.TyperGroup:
    """A command from its module, or the group of a folder's commands."""
    with uncollected():
        module = importlib.import_module(_module(name, package))
    is_folder = hasattr(module, "SUBCOMMANDS")
    # Each example is a paragraph, because help joins the lines of a paragraph.
    examples = "\n\n".join(["Examples:", *getattr(module, "EXAMPLES", ())])
    single = typer.Typer(name=name, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    paragraphs = (inspect.getdoc(module if is_folder else module.command) or "").split("\n\n")
    shown: dict[str, Any] = {
        # Brackets are words, not markup.
        "help": "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).replace("[", r"\["),
        "epilog": examples.replace("[", r"\[") if hasattr(module, "EXAMPLES") else None,
    }
    if is_folder:
        single.callback(cls=_Folder, no_args_is_help=True, **shown)(lambda: None)
    else:
        single.command(name, cls=_Command, **shown)(module.command)
    loaded = typer.main.get_command(single)
    if isinstance(loaded, _Folder):
        loaded.package, loaded.summaries = module.__name__, module.SUBCOMMANDS
    assert isinstance(loaded, typer.core.TyperCommand | typer.core.TyperGroup)
    return loaded


def _module(name: str, package: str) -> str:
    return f"{package}.{name.replace('-', '_')}"


app = typer.Typer(
    name="omnidrop",
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Ask the same questions of every minute of a video archive.",
    epilog="Start with:  omnidrop demo\n\nHelp of a command:  omnidrop index --help",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"omnidrop {version('omnidrop')}")
        raise typer.Exit


class LogFormat(enum.StrEnum):
    """Format of messages on standard error."""

    TEXT = "text"
    JSON = "json"


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show tracebacks. Allowed anywhere in the command (or set OMNIDROP_DEBUG=1)."),
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            "--log-format",
            envvar="OMNIDROP_LOG",
            help="json: log one JSON object per line, with run, unit and clip ids, and show no progress bar.",
        ),
    ] = LogFormat.TEXT,
) -> None:
    logging.lastResort = PrintableWarnings(logging.WARNING)
    if log_format is LogFormat.JSON:
        from jobs._shared.display import console
        from pipeline.runs.logs import json_logs

        context.with_resource(json_logs(sys.stderr))
        context.call_on_close(lambda before=console.quiet: setattr(console, "quiet", before))
        console.quiet = True


def main(command: str | None = None) -> NoReturn:
    """Run the command line and exit; with `command`, the arguments are that command's own."""
    _open_streams()
    interrupts.handle()
    sys.excepthook = _unforeseen
    threading.excepthook = _unforeseen_in_a_thread
    arguments = sys.argv[1:] if command is None else [command, *sys.argv[1:]]
    with own_process():
        # Calling `app` itself would put typer's hook in place of ours.
        typer.main.get_command(app)(args=arguments, prog_name="omnidrop")
    raise AssertionError("the application exits")


def _open_streams() -> None:
    """Of a process that was started without standard streams (`>&-`, some daemons): the next file that it opens, the
    savings index perhaps, would get their numbers, and what a library prints would land in it. A result that cannot be
    written to standard output stays an error."""
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    # Unbuffered: what was refused once is not tried again when Python ends.
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", write_through=True)
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", write_through=True)


def _trouble_of_the_machine(error: BaseException) -> str | None:
    """What the machine lacks and how to mend it, where that ended the command; None for anything else."""
    is_unmapped = isinstance(error, ImportError) and "failed to map segment" in str(error)
    if isinstance(error, MemoryError) or is_unmapped or getattr(error, "errno", None) == errno.ENOMEM:
        return "there is not enough memory (`ulimit -v`, the container's limit); make room and run again"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return f"{_NO_THREADS}; raise that and run again"
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{where}; make room and run again"
    if error.errno == errno.EBADF and error.filename is None:
        return "standard output is closed; redirect it to a file or to /dev/null"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "no more files can be opened (`ulimit -n`); raise that limit and run again"
    if error.errno == errno.EAGAIN and _began(error) == "_execute_child":
        return f"{_NO_THREADS}; raise that and run again"
    return None


def _began(error: BaseException) -> str:
    """Name of the function that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].name if frames else ""


def _unforeseen_in_a_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        _unforeseen(ended.exc_type, ended.exc_value, ended.exc_traceback)


def _unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line what no command foresaw, and keep the traceback in a file; with --debug show it. No credential
    that it quotes is shown or kept."""
    if issubclass(kind, KeyboardInterrupt):  # before the command began
        say("omnidrop: interrupted", err=True)
        return
    if (known := _trouble_of_the_machine(error)) is not None:
        say(f"omnidrop: error: {known}", err=True)
        return
    told = without_secrets("".join(traceback.format_exception(kind, error, trace)))
    path = None
    if not ("--debug" in sys.argv or os.environ.get("OMNIDROP_DEBUG")):
        with contextlib.suppress(OSError):
            fd, path = tempfile.mkstemp(".txt", "omnidrop-error-", text=True)
            with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(told)
    if path is None:
        say(told, err=True)
    report = "with the lines above" if path is None else f"with the file {path}"
    said = without_secrets(first_line(error))
    say(f"omnidrop: error: {kind.__name__}: {said}; this is a bug in OmniDrop: please report it {report}", err=True)


if __name__ == "__main__":
    main()
