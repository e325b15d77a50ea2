"""Runs from beginning to end, and what keeps their results: rebuild, forget, metrics, logs."""
