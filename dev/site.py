"""What MkDocs calls while it builds the site (`make docs`): pages from the code, and pages that lie outside `docs/`.

Promises: the reference pages say what the code says, since they are made of it; a link of a page that works in the
repository works in the site, and a link to a file of the code is shown as that file's name. Knows nothing about themes.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "dev/LOG.md": "log.md",
}
"""Pages of the repository, and what they are called in the site."""
_LINK = re.compile(r"(?P<bang>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<to>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not below `docs/`."""
    made = {name: (ROOT / path).read_text() for path, name in OUTSIDE.items()}
    made |= {"reference/cli.md": cli_page(), "reference/tables.md": tables_page()}
    made |= {"reference/errors.md": errors_page(), "reference/metrics.md": metrics_page()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    name = page.file.src_uri
    inside = {site: path for path, site in OUTSIDE.items()}
    here = posixpath.dirname(inside.get(name, f"docs/{name}"))

    def turned(link: re.Match[str]) -> str:
        to = link["to"]
        if not to or "://" in to or to.startswith("mailto:") or name.startswith("reference/"):
            return link[0]
        path = posixpath.normpath(posixpath.join(here, to))
        target = OUTSIDE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if target is None or files.get_file_from_path(target) is None:
            assert (ROOT / path).exists(), f"{name}: {to} leads nowhere"
            return link["text"]
        target = posixpath.relpath(target, posixpath.dirname(name) or ".")
        return f"{link['bang']}[{link['text']}]({target}{link['anchor'] or ''})"

    # The lexer of consoles takes lines without a prompt for output, and prints them grey.
    markdown = markdown.replace("```console\n", "```bash\n")
    # What stands in a code block is no link.
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(turned, part) for part in parts)


def cli_page() -> str:
    """Every command with its own options and examples."""
    from jobs.cli import COMMANDS, load_command

    lines = [
        "# Command line\n",
        "Every command takes `--help` and `--debug`. Commands that take a job file take every setting of it as an",
        "option, too: [job file](../job-file.md). Exit status: 0 success, 1 failure, 2 invalid input; for others see a",
        "command's own text.\n",
    ]
    for name in COMMANDS:
        command = load_command(name)
        lines.append(f"## omnidrop {name}\n")
        lines += _about(command, f"omnidrop {name}")
        for sub in getattr(command, "summaries", {}) if hasattr(command, "package") else ():
            lines.append(f"### omnidrop {name} {sub}\n")
            lines += _about(load_command(sub, command.package), f"omnidrop {name} {sub}")
    return "\n".join(lines)


def _about(command: Any, path: str) -> list[str]:
    context = typer.Context(command, info_name=path)
    lines = ["```text\n" + " ".join(command.get_usage(context).split()).removeprefix("Usage: ") + "\n```\n"]
    lines += [command.help.replace("\\[", "["), ""] if command.help else []
    settings = _settings()
    own = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    rows = [p for p in own if not set(p.opts) & settings]
    if len(rows) < len(own):
        lines.append("Takes a job file, and every setting of it as an option.\n")
    if rows:
        lines += ["| option | what it does |", "|---|---|"]
        lines += [f"| {', '.join(f'`{o}`' for o in p.opts)} | {_cell(p.help or '')} |" for p in rows]
        lines.append("")
    if command.epilog:
        _, *examples = command.epilog.split("\n\n")
        lines += ["```console", *(one.replace("\\[", "[") for one in examples), "```\n"]
    return lines


def _settings() -> set[str]:
    from jobs._shared.options import settings

    return {name for setting in settings() for name in setting.names}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("\\[", "[")


def tables_page() -> str:
    """Every table with its columns and their types."""
    from pipeline.tables.manifest import SCHEMAS

    lines = [
        "# Tables\n\nWhat `tables/live/NAME/*.parquet` holds; how to read it: [query the results](../analytics.md).\n"
    ]
    for name, schema in SCHEMAS.items():
        lines += [f"## {name}\n", "| column | type |", "|---|---|"]
        lines += [f"| `{field.name}` | {_cell(str(field.type))} |" for field in schema]
        lines.append("")
    return "\n".join(lines)


def errors_page() -> str:
    """Every error class of `quarantine`, and what becomes of it."""
    from pipeline.failure_rules import rules_table

    head = "# Error classes\n\nWhat stands in `quarantine.error_class`; what to do about each: "
    return f"{head}[troubleshooting](../guide/troubleshooting.md).\n\n{rules_table()}"


def metrics_page() -> str:
    """Every metric of a run."""
    from pipeline.runs.metrics import ALL, JOB, PREFIX

    lines = [
        f"# Metrics\n\nOf a run on Ray, where Prometheus looks; each name begins with `{PREFIX}`, each has the tag "
        f"`{JOB}`. How to look at them: [cluster](../cluster.md).\n",
        "| metric | kind | tags | what it counts |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{tag}`' for tag in one.tags)} | {_cell(one.help)} |"
        for one in ALL
    ]
    return "\n".join(lines) + "\n"
