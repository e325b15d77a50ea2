"""`python -m benchmarks.train_tiny`: train the embedded checkpoint, stage by stage, resuming where it stopped."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

from benchmarks.train_tiny import perception
from benchmarks.train_tiny.architecture import fresh
from benchmarks.train_tiny.tokenizer import build_tokenizer

STAGES = ("perception",)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_tiny", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/tiny"), help="checkpoints and log (kept out of git)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vision-steps", type=int, default=2400)
    parser.add_argument("--audio-steps", type=int, default=300)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.StreamHandler(sys.stdout), logging.FileHandler(given.folder / "train.log")],
    )
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    tokenizer = build_tokenizer()
    model = fresh(tokenizer).to(device)
    words = perception.words_of(model, tokenizer)
    for kind, steps, rate in (("audio", given.audio_steps, 2e-3), ("vision", given.vision_steps, 2e-3)):
        perception.train(
            model,
            words,
            kind,
            steps=steps,
            rate=rate,
            seed=given.seed,
            checkpoint=given.folder / f"{kind}.pt",
            device=device,
        )
    perception.log.info("perception: %s", perception.rounded(perception.measure(model, words)))


if __name__ == "__main__":
    main()
