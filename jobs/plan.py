"""`omnidrop plan`: what a job will do and cost, before anything runs."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs._shared.display import console, hours, print_facts, quantity, saved, share, with_copies, with_reasons
from jobs._shared.notes import note
from jobs._shared.options import JsonFile, with_job, write_json
from jobs._shared.terminal import waiting
from jobs.cli import main
from pipeline.config.job import JobConfig
from pipeline.config.locations import as_typed
from pipeline.config.sections import CostConfig, PruningConfig
from pipeline.cost.calibration import GpuHours
from pipeline.cost.clip_prices import expensive_passes
from pipeline.cost.estimate import Price, price_job
from pipeline.counted import counted
from pipeline.tables.noticed import Case, lines

EXAMPLES = (
    "omnidrop plan job.yaml",
    "omnidrop plan job.yaml --pruning-retained-ratio 0.2",
    "omnidrop plan job.yaml --sample 1000 --json plan.json",
)
AT_MOST = "still frames and short texts cost less"


@with_job
def command(
    job: JobConfig,
    redo_older: Annotated[
        bool,
        typer.Option(
            "--redo-older", help="Include clips that an older version answered, as if they were answered again."
        ),
    ] = False,
    ask_together: Annotated[
        bool,
        typer.Option("--together", help="Assume that all questions are asked in one pass, not in recorded passes."),
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Read all packets of files without an index, as a run does.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Estimate media, clips, tokens and FLOPs of a job without loading a model.

    Media are probed once (results are cached) and not decoded. Media, clips and tokens are exact, except for files
    without an index: their declared length is used unless --exact is given. FLOPs are an upper bound: every frame
    counts as new and every free-text answer as long as allowed. GPU hours need `omnidrop calibrate`, cost also needs a
    price in the job. GPU hours cover answering only; their range comes from clips held out from the calibration's fit.
    """
    with waiting("planning: listing the archive", console) as tell:
        price = price_job(
            job,
            lambda p: tell(f"planning: {counted(p.media, 'file')}, {counted(p.clips, 'clip')}"),
            redo_older=redo_older,
            ask_together=ask_together,
            is_exact=exact,
        )
    print_facts(f"plan of job {job.name}", [*plan_lines(price, job.pruning), *hours_lines(price, job.cost)])
    for key, error_class in price.failed_keys:
        note(f"{key} cannot be used: {error_class}")
    if unnamed := price.media_failed.total() - len(price.failed_keys):
        place = as_typed(job.output, job.storage.endpoint_url)
        note(f"and {unnamed} more; after a run, `omnidrop query {place} quarantine` lists all with reasons")
    for text in price.notes:
        note(text)
    if several := expensive_passes(price.passes_flops, price.one_pass_flops):
        note(several)
    for key, clips, size in price.outliers:
        note(
            f"{key} ({quantity(size, 'B')}) would be cut into {clips} clips, far more than other files; "
            "clips.max_per_media limits them"
        )
    money = None if price.as_run_gpu_hours is None else job.cost.usd(price.as_run_gpu_hours.expected)
    found = {name: value for name, value in vars(price).items() if name not in ("longest", "clips_per_media")}
    found["not_taken"] = price.not_taken.counts
    write_json(json_file, found | {"outliers": price.outliers, "retained_ratio": price.retained_ratio, "usd": money})


def plan_lines(price: Price, pruning: PruningConfig) -> list[tuple[str, str]]:
    """The rows of the plan's table: (name, value with its unit)."""
    todo = price.clips - price.clips_finished
    return [
        ("weights", price.weights),
        ("media", with_copies(price.media, price.copies, "as done", of=f"{price.video_s / 3600:.2f} hours")),
        *price.not_taken.lines(),
        ("unusable media", with_reasons(price.media_failed.total(), price.media_failed.most_common())),
        *noticed_lines(price),
        ("work units", f"{price.units - price.units_finished} to do, {price.units_finished} done"),
        ("clips", f"{todo} to do, {price.clips_finished} done"),
        *_reasons(price),
        *_whole(price),
        ("answers to give", f"{price.questions}"),
        ("tokens before pruning", f"{quantity(price.audio_tokens)} audio, {quantity(price.video_tokens)} video"),
        *_encoded(price, pruning),
        ("retained ratio", share(price.retained_ratio)),
        ("model FLOPs", f"up to {quantity(price.as_run_flops, 'FLOP')}: {AT_MOST}" if todo else "-"),
        ("FLOPs saved vs prefix reuse", saved(price.as_run_flops, price.dense_shared_flops)),
        ("FLOPs saved vs dense", saved(price.as_run_flops, price.dense_flops)),
        (
            "KV cache of the largest clip",
            f"{quantity(price.largest_clip_kv_bytes, 'B')} instead of "
            f"{quantity(price.largest_clip_kv_bytes_dense_shared, 'B')} ({price.dtype})"
            if todo
            else "-",
        ),
    ]


def _reasons(price: Price) -> list[tuple[str, str]]:
    """Why clips are asked, and what each reason costs."""
    rows = []
    for reason, of in sorted(price.reasons.items(), key=lambda pair: -pair[1].as_run_flops):
        cost = quantity(of.as_run_flops, "FLOP")
        if of.gpu_hours is not None:
            cost += f", {hours(of.gpu_hours.expected, None)}"
        rows.append((f"  {reason}", f"{counted(of.clips, 'clip')}, {cost}"))
    return rows


def _whole(price: Price) -> list[tuple[str, str]]:
    """What is asked about whole videos."""
    if not price.whole_videos:
        return []
    said = (
        f"{price.whole_videos} to ask about, {quantity(price.whole_flops, 'FLOP')} at most in {price.whole_texts} texts"
    )
    return [("whole videos", f"{said}, when their clips are done")]


def _encoded(price: Price, pruning: PruningConfig) -> list[tuple[str, str]]:
    if price.video_encoded == price.video_tokens:
        return []
    cells = f"{quantity(price.video_encoded)} of {quantity(price.video_tokens)} cells"
    if pruning.still_levels:
        return [("image cells to encode", f"up to {cells} (lossy); unchanged cells are skipped")]
    return [("image cells to encode", f"{cells} (lossy)")]


def noticed_lines(price: Price) -> list[tuple[str, str]]:
    """The rows about files that are not simply one recording of one track, where there are any."""
    rows = []
    if price.unchecked:
        rows.append(("unchecked timelines", f"{price.unchecked} media, using their declared length; see --exact"))
    if price.segmented:
        rows += lines([Case("segments", price.segmented, price.segments)])
    if price.unused_tracks:
        rows += lines([Case("unused_tracks", price.with_unused_tracks, price.unused_tracks)])
    if price.with_notes:
        rows.append(("noticed: notes", f"of {price.with_notes} media; `omnidrop inspect FILE` says which"))
    return rows


def hours_lines(price: Price, cost: CostConfig) -> list[tuple[str, str]]:
    """The rows of hours and money, or what to do to have some."""
    known = price.calibration
    if known is None or price.as_run_gpu_hours is None:
        return [("GPU hours", "unknown; run `omnidrop calibrate` on the machine that will run the job")]
    rows = [
        ("GPU hours of answering", _ranged(price.as_run_gpu_hours, cost)),
        ("  with prefix reuse", _ranged(price.dense_shared_gpu_hours, cost)),
        ("  dense", _ranged(price.dense_gpu_hours, cost)),
        ("measured on", f"{known.device}, {known.dtype}, {known.measured_at[:10]}"),
    ]
    cap = cost.gpu_hours_cap
    if cap is not None and price.as_run_gpu_hours.expected > cap:
        rows.append(("budget", f"{hours(cap, cost.usd(cap))}: too little for one run"))
    return rows


def _ranged(estimate: GpuHours | None, cost: CostConfig) -> str:
    if estimate is None:
        return "-"
    low, expected, high = (hours(one, cost.usd(one)) for one in (estimate.low, estimate.expected, estimate.high))
    return f"{expected}; {low} to {high}"


if __name__ == "__main__":
    main("plan")
