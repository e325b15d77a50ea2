"""`omnidrop calibrate`: how fast a job's model answers on this machine, so that plans can say hours and money."""

from __future__ import annotations

from jobs._shared.display import console, print_facts
from jobs._shared.notes import note
from jobs._shared.options import JsonFile, with_job, write_json
from jobs.cli import main
from pipeline.config.job import JobConfig
from pipeline.cost.calibrate import calibrate
from pipeline.cost.calibration import Calibration

EXAMPLES = (
    "omnidrop calibrate job.yaml",
    "omnidrop calibrate job.yaml --model-device cuda --json calibration.json",
    "omnidrop calibrate job.yaml --execution-ray-address auto    # measure on the cluster",
    "omnidrop calibrate job.yaml --model-clips-per-pass auto    # also find the fastest batch size",
    "omnidrop plan job.yaml --usd-per-gpu-hour 2.5    # then shows GPU hours and cost",
)


@with_job
def command(job: JobConfig, json_file: JsonFile = None) -> None:
    """Measure how fast the job's model is, so that `omnidrop plan` can show GPU hours and cost.

    Run this on a machine like those that will run the job, with nothing else on its GPU. With a Ray cluster, one actor
    on one of its machines is measured. Some thirty to fifty passes over generated clips up to the job's size are
    timed, pruned and unpruned, with the job's questions. The measurement is stored with the job's results, one for each
    model, device and data type. Only answering is timed, not decoding or waiting.
    """
    with console.status("calibrating") as status:
        found = calibrate(job, lambda done, of: status.update(f"calibrating: pass {done + 1} of {of}"))
    print_facts(f"{found.model} on {found.device}, {found.dtype}", calibration_lines(found))
    if found.doubt is not None:
        note(found.doubt)
    write_json(json_file, found)


def calibration_lines(found: Calibration) -> list[tuple[str, str]]:
    """The rows of the table: (name, value with its unit)."""
    rates = found.throughput
    lines = [
        ("weights", found.weights),
        ("passes measured", f"{found.passes}"),
        ("of every clip", f"{1e3 * rates.clip_s:.3g} ms"),
        ("encoders", f"{1e3 * rates.encoder_s_per_tflop:.3g} ms a TFLOP"),
        ("prefill and selection", f"{1e3 * rates.prefill_s_per_tflop:.3g} ms a TFLOP"),
        ("decoding of texts", f"{1e3 * rates.decode_s_per_tflop:.3g} ms a TFLOP"),
        ("error on clips held out, mean", f"{100 * found.mean_relative_error:.1f} %"),
        ("measured over fitted, held out", f"{found.lowest_ratio:.2f} to {found.highest_ratio:.2f}"),
        ("loading the model", f"{found.load_s:.1f} s"),
    ]
    if found.together:
        seconds = ", ".join(f"{clips}: {1e3 * seconds:.3g} ms" for clips, seconds in found.together)
        lines.append(("a clip, by clips in a pass", f"{seconds}; `auto` is {found.clips_per_pass}"))
    if found.peak_device_bytes and found.device_bytes:
        peak, whole = (f"{nbytes / 2**30:.1f} GiB" for nbytes in (found.peak_device_bytes, found.device_bytes))
        fit = f"actors on one GPU with `model.gpus_per_actor: auto`: {found.actors_per_gpu}"
        lines.append(("memory taken", f"{peak} of {whole}; {fit}"))
    return lines


if __name__ == "__main__":
    main("calibrate")
