"""Alembic's part of the index: the revisions of its tables, and the way to this version's.

Promises: a module of its own, so that only a process with tables to make or change imports Alembic (0.2 s). Knows
nothing about locks, and nothing about what the tables hold.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

_MIGRATIONS = Path(__file__).parent / "migrations"


@cache
def revisions() -> tuple[str, ...]:
    """All that this version knows, the newest first."""
    return tuple(script.revision for script in ScriptDirectory(str(_MIGRATIONS)).walk_revisions())


def upgrade(connection: sa.Connection, prefix: str) -> None:
    """Make or change the tables whose names begin with `prefix`."""
    command.upgrade(migrations(connection, prefix), "head")


def migrations(connection: sa.Connection, prefix: str) -> Config:
    """Alembic's configuration: where the migrations are, and whose tables they make on which connection."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes.update(prefix=prefix, connection=connection)
    return config
