"""Seconds and bytes: ours beside what a user would pick instead."""
