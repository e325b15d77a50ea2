"""Harnesses that assert promises: kills, faults, hostile media; long runs have make targets."""
