"""Moments found by words and conditions in the published answers."""
