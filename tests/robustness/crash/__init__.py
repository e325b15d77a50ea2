"""Kills runs on purpose, lets them resume, and compares what is published with what an undisturbed run publishes."""
