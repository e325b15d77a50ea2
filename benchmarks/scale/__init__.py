"""Measurements at sizes no test can hold: `python -m benchmarks.scale --help`."""
