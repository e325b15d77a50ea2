"""`python -m jobs.evaluate` is `omnidrop evaluate`."""

from jobs.cli import main

main("evaluate")
