"""Question sets, their templates, and the built-in sets."""
