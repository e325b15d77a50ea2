"""`python -m benchmarks.train_tiny`: train the embedded checkpoint, stage by stage, resuming where it was stopped.

Stages: the encoders alone (`audio`, `vision`); every second layer of the decoder on ideal features (`ideal`) and on
the encoders' features (`encoded`); all layers on the encoders' features (`grown`); then the checkpoint is written to
`--out`. Every stage keeps its state in `--folder`; `--hours` fits the number of steps to a time, measured on the
machine at hand. Several processes train together under
`python -m torch.distributed.run --nproc-per-node N -m benchmarks.train_tiny`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, Qwen2Tokenizer

from benchmarks.train_tiny import binding, perception
from benchmarks.train_tiny.architecture import LAYERS, fresh, save
from benchmarks.train_tiny.clips import Packer
from benchmarks.train_tiny.optim import rank
from benchmarks.train_tiny.sources import EncodedSource, IdealSource
from benchmarks.train_tiny.tokenizer import build_tokenizer

log = logging.getLogger("train_tiny")
ALL_LAYERS = tuple(range(LAYERS))


@dataclass(frozen=True)
class Plan:
    """Steps of every stage. The defaults are the counts of the run whose checkpoint ships; that run's curriculum was
    changed by hand on the way (see the lab log), so they give a like model, not the same weights."""

    audio: int = 160
    vision: int = 620
    ideal: int = 605
    encoded: int = 241
    grown: int = 495
    rows: int = 3
    """Clips a decoder step and process."""
    rate: float = 2e-3
    seed: int = 1


SHARES = {"audio": 0.03, "vision": 0.17, "ideal": 0.2, "encoded": 0.3, "grown": 0.3}
"""How `--hours` is spent."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_tiny", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/tiny"), help="state and log, kept out of git")
    parser.add_argument("--out", type=Path, help="where to write the checkpoint (default: FOLDER/checkpoint)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that make batches")
    parser.add_argument("--export", action="store_true", help="train nothing: write what the stages have so far")
    parser.add_argument("--hours", type=float, help="fit the steps to this many hours")
    for name, value in asdict(Plan()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("nccl" if given.device.startswith("cuda") else "gloo")
    logging.basicConfig(
        level=logging.INFO if rank() == 0 else logging.WARNING,
        format="%(asctime)s %(message)s",
        handlers=[logging.StreamHandler(sys.stdout), logging.FileHandler(given.folder / "train.log")],
        force=True,
    )
    torch.set_num_threads(given.threads)
    plan = Plan(**{name: getattr(given, name) for name in asdict(Plan())})
    trained = Training(given.folder, torch.device(given.device), given.workers, plan)
    if given.export:
        trained.restore()
        save(trained.model, trained.tokenizer, given.out or given.folder / "checkpoint")
        return
    if given.hours:
        trained.plan = trained.fitted(given.hours * 3600)
    log.info("plan %s on %s, %d threads", asdict(trained.plan), given.device, given.threads)
    trained.run()
    if rank() == 0:
        save(trained.model, trained.tokenizer, given.out or given.folder / "checkpoint")


class Training:
    """The model, its sources of clips, and where the state of every stage lies."""

    def __init__(self, folder: Path, device: torch.device, workers: int, plan: Plan) -> None:
        self.folder, self.device, self.workers, self.plan = folder, device, workers, plan
        self.tokenizer: Qwen2Tokenizer = build_tokenizer()
        self.model: Qwen2_5OmniThinkerForConditionalGeneration = fresh(self.tokenizer).to(device)
        # The names that encoders learn to say stay those of the fresh model: the decoder's may move on.
        self.words = perception.words_of(self.model, self.tokenizer)
        self.packer = Packer(self.tokenizer)

    def run(self) -> None:
        """All stages; those that are done only load their state."""
        for kind in ("audio", "vision"):
            self.perceive(kind, getattr(self.plan, kind))
        if rank() == 0:
            log.info("perception: %s", perception.rounded(perception.measure(self.model, self.words)))
        ideal, encoded, rate = self.ideal(), EncodedSource(self.model, self.words, self.device), self.plan.rate
        done = {name for name in ("encoded", "grown") if (self.folder / f"{name}.pt").exists()}
        if not done:
            self.bind("ideal", ideal, self.plan.ideal, rate, binding.FIRST_LAYERS, binding.PHASES, decay=0.0)
        if "grown" not in done:
            self.bind(
                "encoded",
                encoded,
                self.plan.encoded,
                0.75 * rate,
                binding.FIRST_LAYERS,
                binding.LATER_PHASES,
                decay=0.0,
            )
            binding.grow(self.model)
        self.bind("grown", encoded, self.plan.grown, 0.75 * rate, ALL_LAYERS, binding.LAST_PHASES, decay=0.6)
        if rank() == 0:
            found = binding.evaluate(self.model, self.packer, encoded, binding.LAST_PHASES[-1].stage, self.device)
            log.info("unseen generated clips: %s", binding.table(found))

    def restore(self) -> None:
        """Load the state of both encoders and of the decoder's latest stage."""
        towers = {"audio": self.model.model.audio_tower, "vision": self.model.model.visual}
        decoder = torch.nn.ModuleList([self.model.model.language_model, self.model.lm_head])
        latest = next(name for name in ("grown", "encoded", "ideal") if (self.folder / f"{name}.pt").exists())
        for name, module in {**towers, latest: decoder}.items():
            state = torch.load(self.folder / f"{name}.pt", weights_only=True, map_location=self.device)
            module.load_state_dict(state["weights"])
            log.info("%s: step %d", name, state["step"])
        if latest != "grown":
            binding.grow(self.model)

    def ideal(self) -> IdealSource:
        """The source of perfect features."""
        return IdealSource(perception.Words(*(table.cpu() for table in vars(self.words).values())))

    def perceive(self, kind: str, steps: int) -> None:
        """One encoder."""
        perception.train(
            self.model,
            self.words,
            kind,
            steps=steps,
            rate=self.plan.rate,
            seed=self.plan.seed,
            checkpoint=self.folder / f"{kind}.pt",
            device=self.device,
            workers=self.workers,
        )

    def bind(
        self,
        name: str,
        source: IdealSource | EncodedSource,
        steps: int,
        rate: float,
        active: tuple[int, ...],
        phases: tuple[binding.Phase, ...],
        decay: float = 0.35,
    ) -> None:
        """One stage of the decoder."""
        # Encoding in worker processes needs the model there: on a GPU clips are encoded in this process.
        workers = self.workers if isinstance(source, IdealSource) or self.device.type == "cpu" else 0
        binding.train(
            self.model,
            self.packer,
            source,
            self.words,
            steps=steps,
            rows=self.plan.rows,
            rate=rate,
            seed=self.plan.seed + 2,
            checkpoint=self.folder / f"{name}.pt",
            device=self.device,
            phases=phases,
            decay=decay,
            workers=workers,
            active=active,
        )

    def fitted(self, seconds: float) -> Plan:
        """The plan with steps that take about `seconds`, from a few steps of every stage; kept for a resumed run."""
        kept = self.folder / "plan.json"
        if kept.exists():
            return Plan(**json.loads(kept.read_text()))
        trial = Training(self.folder / "trial", self.device, 0, Plan(rows=self.plan.rows))
        trial.folder.mkdir(exist_ok=True)
        encoded = EncodedSource(trial.model, trial.words, self.device)
        stages = {
            "audio": lambda: trial.perceive("audio", 6),
            "vision": lambda: trial.perceive("vision", 6),
            "ideal": lambda: trial.bind("ideal", trial.ideal(), 6, 1e-3, binding.FIRST_LAYERS, binding.PHASES),
            "encoded": lambda: trial.bind("encoded", encoded, 6, 1e-3, binding.FIRST_LAYERS, binding.LATER_PHASES),
            "grown": lambda: trial.bind("grown", encoded, 6, 1e-3, ALL_LAYERS, binding.LAST_PHASES),
        }
        steps = {}
        for name, stage in stages.items():
            started = time.monotonic()
            stage()
            steps[name] = max(20, int(SHARES[name] * seconds / ((time.monotonic() - started) / 6)))
            (trial.folder / f"{name}.pt").unlink()
        plan = Plan(**{**asdict(self.plan), **steps})
        kept.write_text(json.dumps(asdict(plan)) + "\n")
        return plan


if __name__ == "__main__":
    main()
