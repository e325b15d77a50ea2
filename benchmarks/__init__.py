"""Measurements and long runs, each a module with a command line of its own; nothing here is imported by the product."""
