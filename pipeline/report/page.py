"""A report as one HTML page: a Jinja2 template with its style and script inside.

Promises: the page is whole in itself (its content security policy lets it load nothing), everything that came from an
archive or a model is escaped or compressed out of HTML's reach, and it is smaller than `PAGE_BYTES`. Knows nothing
about SQL or where results lie.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Callable, Sequence
from importlib import resources
from importlib.metadata import version

import jinja2
from markupsafe import Markup

from omnidrop.models.checkpoints import EMBEDDED, TOY_NOTE
from pipeline.counted import counted
from pipeline.report import formats
from pipeline.report.view_model import Audit, Interval, Report, Run, Way

PAGE_BYTES = 2_000_000
ANSWERS_BYTES = 1_200_000
"""Compressed answers in a page; base64 makes four bytes of three. The rest of a page takes 60 to 150 kB, and
400 kB where all lists and texts are as long as they may be."""
MOST_RUNS = 12
"""Rows of the table of runs; the picture shows all."""
MOST_QUESTIONS = 64
"""Questions shown as cards; a set has at most this many in practice."""
MOST_FAILURES = 40

WAY_NAMES = {
    "as_run": "As run",
    "dense_shared": "Dense, prefix reused",
    "dense": "Dense, question by question",
}
MODES = {
    "dense": "every question alone, nothing pruned",
    "dense_shared": "one pass with its cache reused, nothing pruned",
    "per_question": "every question alone, pruned for it",
    "staged": "early layers shared, then pruned for each question",
    "set_guided": "one pass for the whole question set, pruned by what any question attends to",
}
PARTS = (
    ("encoder_flops", "encoders", "turning pictures and sound into tokens; unpruned ways encode the whole picture"),
    ("prefill_flops", "prefill", "reading clip and questions"),
    ("selection_flops", "selection", "choosing what to drop"),
    ("decode_flops", "decoding", "writing texts"),
)


def render(report: Report, *, job_file: str = "JOB.yaml", usd_per_gpu_hour: float | None = None) -> bytes:
    """The page, UTF-8. `job_file` is what the commands it shows name."""
    folder = resources.files("pipeline.report") / "page"
    script = (folder / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        name: getattr(formats, name)
        for name in (
            "quantity",
            "percent",
            "seconds",
            "hours",
            "dollars",
            "count",
            "tokens",
            "day",
            "minute",
            "cut",
        )
    } | {"counted": counted}
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    html = template.render(
        report=report,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=base64.b64encode(report.explorer.data).decode(),
        way_names=WAY_NAMES,
        modes=MODES,
        parts=PARTS,
        costs=costs(report, usd_per_gpu_hour),
        longest=max(way.flops for way in report.ways) or 1,
        growth=growth(report.runs),
        recent=[run for run in report.runs if run.spent.clips][-MOST_RUNS:][::-1],
        idle=sum(not run.spent.clips for run in report.runs),
        steps=steps,
        most_questions=MOST_QUESTIONS,
        most_failures=MOST_FAILURES,
        toy_note=TOY_NOTE if any(asked.model in EMBEDDED for asked in report.asked) else "",
        job_file=job_file,
        usd_per_gpu_hour=usd_per_gpu_hour,
        quote=shlex.quote,
        version=version("omnidrop"),
    )
    return html.encode()


def costs(report: Report, usd_per_gpu_hour: float | None) -> list[tuple[str, list[str], str]]:
    """Rows of the table of costs: what, its value in each way (empty where it is not known), how it is known."""
    ways = report.ways
    clips = report.clips_asked or 1
    timed = [_model_s(way, ways[0], report.audit) for way in ways]
    rows = [
        ("Compute", [formats.quantity(way.flops, "FLOP") for way in ways], "counted"),
        ("KV cache a clip", [formats.quantity(way.kv_bytes / clips, "B") for way in ways], "counted"),
        ("Tokens read", [formats.tokens(way.tokens) for way in ways], "counted"),
        ("Time in the model", [_banded(spent, formats.seconds) for spent in timed], _how_timed(timed)),
    ]
    if report.gpu_s is not None:
        rows.append(("GPU hours of answering", [_banded(spent, formats.hours) for spent in timed], _how_timed(timed)))
        if usd_per_gpu_hour is not None:
            paid = [_banded(spent, lambda s: formats.dollars(s / 3600 * usd_per_gpu_hour)) for spent in timed]
            rows.append(("Money for answering", paid, f"these hours at {formats.dollars(usd_per_gpu_hour)}"))
    return rows


def _how_timed(timed: Sequence[Interval | None]) -> str:
    return "measured; unpruned as far as audits say" if any(timed[1:]) else "measured"


def _model_s(way: Way, run: Way, audit: Audit | None) -> Interval | None:
    """Seconds in the model: measured, or for the audited way what the audited sample makes of the measured ones."""
    if way.model_s is not None:
        return Interval(way.model_s, way.model_s, way.model_s)
    if way.name != "dense_shared" or audit is None or run.model_s is None:
        return None
    value, low, high = (
        run.model_s / (1 - share) for share in (audit.saved_s.value, audit.saved_s.low, audit.saved_s.high)
    )
    return Interval(value, low, high)


def _banded(spent: Interval | None, shown: Callable[[float], str]) -> str:
    if spent is None:
        return ""
    if spent.low == spent.high:
        return shown(spent.value)
    return f"{shown(spent.value)} ({shown(spent.low)} to {shown(spent.high)})"


def steps(shares: Sequence[float | None]) -> str:
    """Shares per layer as an SVG path of steps in a box of 100 x 100, from the upper left."""
    width = 100 / len(shares)
    path = ""
    for layer, share in enumerate(shares):
        if share is None:
            continue
        y = f"{100 - 100 * share:.2f}"
        path += f"{'L' if path else 'M'}{layer * width:.2f} {y}H{(layer + 1) * width:.2f}"
    return path


def growth(runs: Sequence[Run]) -> dict[str, str | int] | None:
    """The picture of savings over time, in a box of 100 x 100: compute summed over runs, as run and with prefix reuse.

    None where fewer than two runs answered something.
    """
    done = [run for run in runs if run.spent.clips]
    if len(done) < 2:
        return None
    total_run = total_dense = 0
    sums = [(0, 0)]
    for run in done:
        total_run += run.spent.as_run_flops
        total_dense += run.spent.dense_shared_flops
        sums.append((total_run, total_dense))
    highest = max(total_run, total_dense, 1)
    run_line = [_point(i, len(done), spent / highest) for i, (spent, _) in enumerate(sums)]
    dense_line = [_point(i, len(done), spent / highest) for i, (_, spent) in enumerate(sums)]
    return {
        "run": " ".join(run_line),
        "dense": " ".join(dense_line),
        "between": " ".join([*run_line, *reversed(dense_line)]),
        "highest": highest,
        "first": done[0].started_at,
        "last": done[-1].started_at,
        "runs": len(done),
    }


def _point(index: int, of: int, share: float) -> str:
    return f"{100 * index / of:.2f},{100 - 100 * share:.2f}"
