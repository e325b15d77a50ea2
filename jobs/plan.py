"""`omnidrop plan`: what a job will do and cost, before anything runs."""

from __future__ import annotations

from jobs.cli import main
from jobs.display import console, print_facts, quantity, saved, share, with_reasons
from jobs.options import JsonFile, with_job, write_json
from pipeline.job import JobConfig
from pipeline.pricing import Price, price_job

EXAMPLES = (
    "omnidrop plan job.yaml",
    "omnidrop plan job.yaml --pruning-retained-ratio 0.2",
    "omnidrop plan job.yaml --sample 1000 --json plan.json",
)


@with_job
def command(job: JobConfig, json_file: JsonFile = None) -> None:
    """Count media, clips, tokens and FLOPs of a job without loading a model.

    Media are probed (once: results are remembered), nothing is decoded. Counts are exact; free texts are priced at
    their longest.
    """
    with console.status("planning") as status:
        price = price_job(job, lambda p: status.update(f"planning: {p.media} media, {p.clips} clips"))
    print_facts(f"plan of job {job.name}", plan_lines(price))
    write_json(json_file, vars(price) | {"retained_ratio": price.retained_ratio})


def plan_lines(price: Price) -> list[tuple[str, str]]:
    """The rows of the plan's table: (name, value with its unit)."""
    todo = price.clips - price.clips_finished
    return [
        ("media", f"{price.media} ({price.video_s / 3600:.2f} hours)"),
        ("media that cannot be asked", with_reasons(price.media_failed.total(), price.media_failed.most_common())),
        ("work units", f"{price.units - price.units_finished} to do, {price.units_finished} finished before"),
        ("clips", f"{todo} to do, {price.clips_finished} finished before"),
        ("answers to give", f"{price.questions}"),
        ("tokens", f"{quantity(price.audio_tokens)} audio, {quantity(price.video_tokens)} video before pruning"),
        ("retained ratio", share(price.retained_ratio)),
        ("model FLOPs", f"{quantity(price.as_run_flops)}FLOP"),
        ("saved against dense with prefix reuse", saved(price.as_run_flops, price.dense_shared_flops)),
        ("saved against dense per question", saved(price.as_run_flops, price.dense_flops)),
        (
            "KV cache of the largest clip",
            f"{quantity(price.largest_clip_kv_bytes)}B instead of "
            f"{quantity(price.largest_clip_kv_bytes_dense_shared)}B",
        ),
    ]


if __name__ == "__main__":
    main("plan")
