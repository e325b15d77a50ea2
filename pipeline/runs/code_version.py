"""Which software answered: the package's version and a hash over its code.

Promises: two installations with the same number and other code say so, without git or a network. Knows nothing about
runs.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("jobs", "omnidrop", "pipeline", "workers")
DIGITS = 12


@cache
def code_version() -> str:
    """As `0.1.0+1f0c...`: the number, and the beginning of the SHA-256 of all Python files by their paths."""
    digest = sha256()
    for package in PACKAGES:
        spec = find_spec(package)
        for folder in sorted(spec.submodule_search_locations or ()) if spec is not None else ():
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package}/{file.relative_to(folder).as_posix()}\n".encode())
                digest.update(sha256(file.read_bytes()).digest())
    return f"{version('omnidrop')}+{digest.hexdigest()[:DIGITS]}"
