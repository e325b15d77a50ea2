"""One adapter per model family behind the protocol of `base.py`, and the registry that picks one."""
