"""`python -m training.tiny`: train the embedded checkpoint, stage by stage, resuming where it was stopped.

The stages are data (`stages.py`). Each keeps its state in `--folder`, and a stage that is done only loads its weights;
`--from DIR --stages NAME ...` runs some of them on the weights of a finished checkpoint. `--hours` fits the number of
steps to a time, measured on the machine at hand. At the end the checkpoint is written to `--out`. Several processes
train together under `python -m torch.distributed.run --nproc-per-node N -m training.tiny`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from training.tiny import binding, perception, stages
from training.tiny.architecture import LAYERS, deepen, fresh, load, save
from training.tiny.clips import Packer
from training.tiny.faces import FACES_FILE, training_faces
from training.tiny.optim import rank
from training.tiny.sources import EncodedSource, IdealSource
from training.tiny.stages import ALL_LAYERS, CURRICULA, DecoderStage, EncoderStage, Stage
from training.tiny.takes import training_takes
from training.tiny.tokenizer import build_tokenizer

log = logging.getLogger("train_tiny")
TRIAL_STEPS = 6
"""Steps of every stage that `--hours` times."""


@dataclass(frozen=True)
class Settings:
    """What does not change between stages."""

    seed: int = 1
    workers: int = 1


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(prog="python -m training.tiny", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/tiny"), help="state and log, kept out of git")
    parser.add_argument("--out", type=Path, help="where to write the checkpoint (default: FOLDER/checkpoint)")
    parser.add_argument("--from", dest="start", type=Path, metavar="DIR", help="begin with this checkpoint's weights")
    parser.add_argument(
        "--world", choices=tuple(CURRICULA), default="v1", help="which curriculum; v2 and v3 need --from"
    )
    parser.add_argument("--fonts", type=Path, metavar="DIR", help="font files for the pages of world v3")
    parser.add_argument("--stages", nargs="+", help="only these, in the curriculum's order (default: those that ship)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that make batches")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, help="fit the steps to this many hours")
    given = parser.parse_args(arguments)
    try:
        chosen = stages.named(given.stages, CURRICULA[given.world]) if given.stages else stages.shipped(given.world)
    except ValueError as error:
        parser.error(str(error))
    if given.world != "v1" and not given.start:
        parser.error(
            f"--world {given.world} goes on from a checkpoint that knows world v1: name its folder with --from"
        )
    if given.world == "v3" and not given.fonts and not (given.folder / FACES_FILE).exists():
        parser.error("--world v3 learns to read: name a folder of font files with --fonts")
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
    settings = Settings(given.seed, given.workers)
    trained = Training(given.folder, torch.device(given.device), settings, given.start, given.world, given.fonts)
    if given.hours:
        chosen = timed(trained, chosen, given.hours * 3600)
    log.info("%s on %s: %s", settings, given.device, {stage.name: stage.steps for stage in chosen})
    trained.run(chosen)
    if rank() == 0:
        for world in CURRICULA:
            found = perception.measure(trained.model, trained.words, world=world)
            log.info("perception of unseen samples, %s: %s", world, perception.rounded(found))
        save(trained.model, trained.tokenizer, given.out or given.folder / "checkpoint")


class Training:
    """The model and where the state of every stage lies."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        settings: Settings,
        start: Path | None = None,
        world: str = "v1",
        fonts: Path | None = None,
    ) -> None:
        self.world, self.fonts = world, fonts
        self.folder, self.device, self.settings, self.start = folder, device, settings, start
        self.tokenizer = build_tokenizer()
        torch.manual_seed(settings.seed)
        untrained = fresh(self.tokenizer).to(device)
        # The names that encoders learn to say stay those of the fresh model: the decoder's may move on.
        self.words = perception.words_of(untrained, self.tokenizer)
        self.model = load(start)[0].to(device) if start else untrained
        if world == "v3" and len(self.model.model.language_model.layers) == LAYERS:
            self.model = deepen(self.model, self.tokenizer).to(device)
        self.packer = Packer(self.tokenizer)
        self.known: Path | None = None

    def run(self, chosen: tuple[Stage, ...]) -> None:
        """The chosen stages, one after another."""
        grown = self.start is not None
        for stage in chosen:
            if isinstance(stage, EncoderStage):
                self.perceive(stage)
                continue
            if stage.layers == ALL_LAYERS and not grown:
                binding.grow(self.model)
                grown = True
            self.bind(stage)

    def _seed(self, stage: Stage) -> int:
        """Every stage sees other clips."""
        names = [one.name for curriculum in CURRICULA.values() for one in curriculum]
        return self.settings.seed + 100 * names.index(stage.name)

    def perceive(self, stage: EncoderStage) -> None:
        """One encoder."""
        perception.train(
            self.model,
            self.words,
            stage.kind,
            steps=stage.steps,
            rate=stage.rate,
            seed=self._seed(stage),
            checkpoint=self.folder / f"{stage.name}.pt",
            device=self.device,
            workers=self.settings.workers,
            busy=stage.busy_share,
            takes=training_takes(self.folder) if stage.speaks else None,
            faces=training_faces(self.folder, self.fonts) if stage.reads else None,
            begins_at=stage.begins_at,
            tables=stage.tables,
        )

    def bind(self, stage: DecoderStage) -> None:
        """One stage of the decoder."""
        ideal = stage.features == "ideal"
        before = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        heard = self.world == "v3" and not ideal
        takes = training_takes(self.folder, stage.unheard) if heard else None
        faces = training_faces(self.folder, self.fonts) if heard else None
        binding.train(
            self.model,
            self.packer,
            IdealSource(self.words.to("cpu")) if ideal else EncodedSource(self.model, self.device, takes, faces),
            self.words,
            steps=stage.steps,
            rows=stage.rows,
            rate=stage.rate,
            seed=self._seed(stage),
            checkpoint=self.folder / f"{stage.name}.pt",
            device=self.device,
            phases=stage.phases,
            decay=stage.decay,
            # Encoding in worker processes needs the model there: on a GPU clips are encoded in this process.
            workers=self.settings.workers if ideal or self.device.type == "cpu" else 0,
            active=stage.layers,
            frozen=stage.frozen,
            known=self.known,
        )
        self.known = self.folder / f"{stage.name}.pt"
        if stage.is_averaged:
            after = self.model.state_dict()
            self.model.load_state_dict({name: before[name].lerp(weight, 0.5) for name, weight in after.items()})


def timed(trained: Training, chosen: tuple[Stage, ...], seconds: float) -> tuple[Stage, ...]:
    """The stages with steps that take about `seconds`, from a few steps of each; kept for a resumed run."""
    kept = trained.folder / "steps.json"
    if not kept.exists():
        folder = trained.folder / "trial"
        folder.mkdir(exist_ok=True)
        trial = Training(
            folder, trained.device, replace(trained.settings, workers=0), trained.start, trained.world, trained.fonts
        )
        a_step = {}
        for stage in chosen:
            (folder / f"{stage.name}.pt").unlink(missing_ok=True)
            started = time.monotonic()
            trial.run((replace(stage, steps=TRIAL_STEPS),))
            a_step[stage.name] = (time.monotonic() - started) / TRIAL_STEPS
            (folder / f"{stage.name}.pt").unlink()
        fitted = stages.fitted(chosen, seconds, a_step)
        kept.write_text(json.dumps({stage.name: stage.steps for stage in fitted}) + "\n")
    steps = json.loads(kept.read_text())
    return tuple(replace(stage, steps=steps[stage.name]) for stage in chosen)


if __name__ == "__main__":
    main()
