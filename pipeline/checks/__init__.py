"""Checking a job before it runs, and results after."""
