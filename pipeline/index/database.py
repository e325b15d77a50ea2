"""The database under the savings index: opening, migrating, and the SQL in which SQLite and PostgreSQL differ.

Promises: several processes may open one database at the same moment; what is made, migrated and locked belongs to one
output, and nothing else in the database is touched or even looked at; a database that cannot be used is explained
without its password. Knows nothing about what the tables hold.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from omnidrop.errors import UserError, first_line
from pipeline.batches import batches
from pipeline.config.locations import sqlite_url, user_part
from pipeline.index.schema import REVISION, prefix_of, tables_of
from pipeline.storage.errors import Unavailable
from workers.redaction import MASK, without_secrets

BUSY_TIMEOUT_S = 60.0
"""How long a database itself waits for another by default. Without a wait, of SQLite, 910 of 2,400 writes of eight
writers were locked out."""

BATCH = 500
"""Rows in one statement: 500 x 60 columns stays under PostgreSQL's 65,535 parameters."""

_PASSING_STATES = ("08", "40", "55P03", "57P0", "57014", "53", "25006")
"""SQLSTATEs of PostgreSQL by their beginnings: connection lost, deadlock, lock held, restart, a statement that took too
long, no room or too many connections, and a standby that is not yet the primary."""
_SPOILT_STATES = ("42P01", "42703", "42501")
"""A table or column that is not there, as after a backup of a part, and a right that is missing."""
_HOW_TO_WRITE_IT = (
    "give index_url as sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE (with the extra omnidrop[postgres] "
    "installed; @ : / % in a password are written %40 %3A %2F %25)"
)
GRANT = "GRANT USAGE, CREATE ON SCHEMA public TO the user"
"""What a user of PostgreSQL needs, to make its tables."""
_WRITABLE = "its folder must be there and writable; another place is named by index_url"
_ADVICE = {
    "permission denied for table": "let the user read and write this output's tables: GRANT SELECT, INSERT, UPDATE, "
    "DELETE ON ALL TABLES IN SCHEMA public TO the user",
    "must be owner": "only the user who made this output's tables can change them: run a command as that user once",
    "permission denied": f"let the user create tables: {GRANT}",
    "unable to open database file": _WRITABLE,
    "readonly database": _WRITABLE,
}
"""What to do where the index may be read but not written, by words of the database's own."""
_SERVER = "check that the server runs, and host, port, database, user and password in index_url"
_DISK = "look at the disk: it fails, or lets files grow no larger; another place is named by index_url"
_PASSING_WORDS = (
    *("database is locked", "database table is locked", "the database system is"),
    *("consuming input failed", "flushing failed", "the connection is lost"),
    *("too many connections", "too many clients", "remaining connection slots"),
)
"""What SQLite says of a lock that is held, PostgreSQL to who connects while it starts, stops or is full, and its driver
of a connection that ended."""
_HALF_MADE = re.compile(r"(relation|column|table) .*(already exists|does not exist)|no such (table|column)")
"""What a database says to a migration of tables that are of another revision than noted, as after a partial restore."""
_DAMAGED = re.compile(r"malformed|file is not a database")
"""What SQLite says of a file that someone else wrote to."""
_TABLE = re.compile(r"CREATE (TABLE|(UNIQUE )?INDEX) ", re.IGNORECASE)
SQLITE_ROOM_BYTES = 64 << 10
"""What SQLite needs beside a file to open it: 32 kB that its processes share."""
SQLITE_FILES = 3
"""The file itself, what is not yet in it, and what its processes share."""


class IndexMissing(UserError):
    """There is no index where one was to be read."""


class IndexOutdated(UserError):
    """The index has an older schema and was to be read as it is."""


class IndexUnreadable(UserError):
    """SQLite cannot read the index without writing beside it, and the folder is read-only."""


class IndexFailed(UserError):
    """The index cannot be used any more, and waiting will not help."""

    error_class = "index"


class IndexNotWritable(IndexFailed):
    """The index is there for reading at most: a folder without permission, a user of the database without rights."""


class IndexUnavailable(Unavailable):
    """The index is locked, restarts or cannot be reached. It may pass."""

    error_class = "index"


class IndexFull(Unavailable):
    """There is no room for the index. It may pass."""

    error_class = "index_full"


def open_database(url: str, output_id: str, *, is_read_only: bool = False, busy_s: float = BUSY_TIMEOUT_S) -> sa.Engine:
    """Connect, creating or migrating the output's tables. Raises UserError where the database cannot be used, among
    these IndexUnavailable where it may be in a moment. The engine raises the same later on, and never one of
    SQLAlchemy's errors for what is wrong with the database.

    Read only, nothing is created or changed: IndexMissing where there is no index, IndexOutdated where it would have
    to be migrated. `busy_s` is how long the database itself waits for a lock.
    """
    check_supported(url)
    try:
        if is_read_only and url.startswith("sqlite"):
            url = _as_it_lies(url)
        # Tried before it is used: a server that was restarted has closed every connection of the pool.
        engine = sa.create_engine(url, connect_args=_connect_args(url, busy_s), pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _sqlite_read_only if is_read_only else _sqlite_pragmas)
            if not is_read_only:
                _make_file(engine.url.database)
            _check_tables_are_tables(engine, output_id)
        else:
            sa.event.listen(engine, "connect", partial(_postgres_waits, busy_s))
            if is_read_only:
                engine = engine.execution_options(postgresql_readonly=True)
        if is_read_only:
            _check_schema(engine, output_id)
        else:
            _migrate(engine, output_id)
    except (sa.exc.SQLAlchemyError, ImportError, ValueError) as error:
        reason = reason_of(error, url)
        state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
        if getattr(error, "connection_invalidated", False) or _may_pass(state, reason):
            raise IndexUnavailable(_unavailable(shown(url), reason)) from error
        if _is_full(state, reason) or _has_no_room(url):
            raise IndexFull(_full(shown(url))) from error
        if _HALF_MADE.search(reason) or _DAMAGED.search(reason):
            raise IndexFailed(_failed(shown(url), reason, url.partition(":")[0])) from error
        said = f"cannot use the index at {shown(url)}: {reason}"
        if (advice := _advice(reason)) is not None:
            raise IndexNotWritable(f"{said}; {advice}") from None
        if "disk I/O error" in reason:
            raise UserError(f"{said}; {_DISK}") from None
        is_elsewhere = isinstance(error, sa.exc.OperationalError) and not url.startswith("sqlite")
        raise UserError(f"{said}; {_SERVER if is_elsewhere else _HOW_TO_WRITE_IT}") from None
    sa.event.listen(engine, "handle_error", _explain)
    return engine


def _check_tables_are_tables(engine: sa.Engine, output_id: str) -> None:
    """An index that came with somebody else's results may hold a view that never ends in the place of a table, or a
    trigger that deletes what is written: SQLite would not even be interrupted. Raises IndexFailed."""
    prefix = prefix_of(output_id)
    with engine.connect() as connection:
        made = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
    for name, sql in made:
        # By the words that made it: the other columns can be written to say something else. Views of people's own on
        # these tables are theirs.
        is_own_view = re.match(rf"CREATE VIEW [\"'`\[]?(?!{prefix}){re.escape(name)}\b", sql, re.IGNORECASE)
        if prefix in sql.lower() and not is_own_view and not _TABLE.match(sql):
            raise IndexFailed(
                _failed(shown(str(engine.url)), f"it holds {name}, which is not a table of ours", "sqlite")
            )


def check_supported(url: str) -> None:
    """Raises UserError for a database that no index can be in, whether its driver is installed or not."""
    scheme, is_url, _ = url.partition("://")
    if is_url and (name := scheme.partition("+")[0]) not in ("sqlite", "postgresql"):
        raise UserError(
            f"index_url: {name} is not supported; give sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
        )


def _make_file(database: str | None) -> None:
    """As the umask says: SQLite itself lets no group write, whatever it is."""
    if database and database != ":memory:" and not Path(database).exists():
        with contextlib.suppress(OSError):
            Path(database).touch()


def _as_it_lies(url: str) -> str:
    """A SQLite file's URL to read it by: in a read-only folder, or on a full disk, SQLite cannot create its own files
    beside it.

    Raises IndexMissing, IndexUnreadable.
    """
    file = Path(sa.make_url(url).database or "")
    if not file.is_file():
        raise IndexMissing(f"there is no index at {url}")
    if os.access(file, os.W_OK) and os.access(file.parent, os.W_OK) and not _has_no_room(url):
        return url
    log = file.with_name(f"{file.name}-wal")
    if log.exists() and log.stat().st_size:
        raise IndexUnreadable(
            f"{file} has changes in {log.name} that cannot be read on a read-only place or a full disk"
        )
    # SQLite reads its part of the address once more.
    return f"{sqlite_url(f'file:{quote(str(file.absolute()))}')}?mode=ro&immutable=1&uri=true"


def shown(url: str) -> str:
    """A database's URL without its password, also where it is not a valid one."""
    if "://" not in url:
        return MASK  # no address: it may be the password alone
    secret = user_part(url)
    if secret is None or url.startswith("sqlite"):
        return without_secrets(url)
    scheme, _, rest = url.partition("://")
    user = secret.partition(":")[0]
    # What a password with an unescaped @ or / leaves behind the last @ may be a piece of it: only a host is shown.
    place = rest[len(secret) + 1 :].partition("?")[0]
    readable = re.fullmatch(r"[A-Za-z0-9.\-\[\]:]*(/[A-Za-z0-9_.\-]*)?", place)
    return f"{scheme}://{user}:{MASK}@{place if readable else MASK}" if ":" in secret else f"{scheme}://{user}@{place}"


def reason_of(error: Exception, url: str) -> str:
    """What an error says in one line, nothing where that would show a piece of the URL's password."""
    by_database = getattr(error, "orig", None)
    said = str(by_database or error).strip()
    reason = without_secrets(said.splitlines()[0] if said else type(error).__name__)
    password = (user_part(url) or "").partition(":")[2]
    pieces = [password, *re.split(r"[@:/%?#\[\]]", password)]
    if any(piece and piece in reason for piece in pieces):
        if by_database is None:
            return "the URL cannot be read as it is"
        return f"{type(by_database).__name__} (the database's words hold a piece of the password: not shown)"
    return reason


def _explain(context: Any) -> None:
    """Database failures are not programming errors: raise them as ours, without SQL and parameters."""
    if context.is_pre_ping and context.is_disconnect:
        return  # the pool reconnects
    error, where = context.original_exception, context.engine.url.render_as_string(hide_password=True)
    state, reason = getattr(error, "sqlstate", None) or "", without_secrets(first_line(error))
    if _is_full(state, reason):
        raise IndexFull(_full(where)) from error
    is_lost = context.is_disconnect or (context.connection is None and not state)
    if is_lost or _may_pass(state, reason):
        raise IndexUnavailable(_unavailable(where, reason)) from error
    if (advice := _advice(reason)) is not None:
        raise IndexNotWritable(f"cannot use the index at {where}: {reason}; {advice}") from error
    if isinstance(context.sqlalchemy_exception, sa.exc.OperationalError) or state in _SPOILT_STATES:
        raise IndexFailed(_failed(where, reason, context.engine.dialect.name)) from error


def _advice(reason: str) -> str | None:
    """What to do about rights that this user lacks, None where it is something else."""
    return next((advice for words, advice in _ADVICE.items() if words in reason), None)


def _is_full(state: str, reason: str) -> bool:
    # SQLite says it in words, PostgreSQL as SQLSTATE 53100.
    return "disk is full" in reason or state == "53100"


def _has_no_room(url: str) -> bool:
    """Whether a SQLite file lies on a disk without room, for bytes or for files: of the files that it makes beside
    itself SQLite says "disk I/O error", and nothing of room."""
    if not url.startswith("sqlite") or not (database := sa.make_url(url).database):
        return False
    try:
        disk = os.statvfs(Path(database).parent)
        # Some file systems do not count files.
        has_files = disk.f_files == 0 or disk.f_favail >= SQLITE_FILES
        return disk.f_bavail * disk.f_frsize < SQLITE_ROOM_BYTES or not has_files
    except OSError:
        return False


def _full(where: str) -> str:
    return (
        f"the disk of the savings index is full ({where}); make room and run again. Finished work is in the journal, "
        "and the next run updates the index from it"
    )


def _may_pass(state: str, reason: str) -> bool:
    return state.startswith(_PASSING_STATES) or any(words in reason for words in _PASSING_WORDS)


def _failed(where: str, reason: str, dialect: str) -> str:
    what = "delete the index" if dialect == "sqlite" else "drop all of this output's tables"
    return (
        f"the savings index at {where} cannot be used: {reason}; fix that and run again, or {what} and "
        "run `omnidrop rebuild` (the journal holds everything)"
    )


def _unavailable(where: str, reason: str) -> str:
    return f"the savings index at {where} is locked or does not respond: {reason}; check the database"


def rows_in(connection: sa.Connection, query: sa.Select[Any], column: Any, values: Iterable[Any]) -> Iterator[Any]:
    """Rows of `query` whose `column` is one of `values`, however many these are."""
    for batch in batches(values, BATCH):
        yield from connection.execute(query.where(column.in_(batch)))


def upsert(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    replace: bool = False,
    returning: Sequence[str] = (),
) -> Sequence[Mapping[Any, Any]]:
    """Insert rows; those whose key is there are left as they are, or replaced.

    Gives back the columns `returning` of the rows that were really written.
    """
    if not rows:
        return []
    keys = [c.name for c in table.primary_key]
    # PostgreSQL refuses the same key twice in one statement, and NUL in text.
    unique = {tuple(row[k] for k in keys): {n: _clean(v) for n, v in row.items()} for row in rows}
    statement = insert(connection, table)
    if replace:
        values = {c.name: statement.excluded[c.name] for c in table.c if c.name not in keys}
        statement = statement.on_conflict_do_update(index_elements=keys, set_=values)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    if not returning:
        connection.execute(statement, list(unique.values()))
        return []
    written = connection.execute(statement.returning(*(table.c[n] for n in returning)), list(unique.values()))
    return written.mappings().all()


def insert(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that can have an ON CONFLICT clause."""
    return (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)


def _clean(value: Any) -> Any:
    return value.replace("\x00", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value


def bytewise(engine: sa.Engine, *columns: Any) -> list[Any]:
    """To order by: the same in every database, where PostgreSQL's own order depends on its locale."""
    return [c.collate("C") for c in columns] if engine.dialect.name == "postgresql" else list(columns)


def _connect_args(url: str, busy_s: float) -> dict[str, Any]:
    return {"timeout": busy_s} if url.startswith("sqlite") else {}


def _sqlite_pragmas(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA secure_delete=ON")  # what is forgotten leaves no bytes in free pages
    cursor.close()


def _postgres_waits(busy_s: float, connection: Any, _: Any) -> None:
    # Of itself it would wait for ever. Not as an option of the connection, which poolers refuse.
    connection.cursor().execute(f"SET lock_timeout = {max(1, round(1000 * busy_s))}")
    connection.commit()


def _sqlite_read_only(connection: Any, _: Any) -> None:
    # Not `mode=ro`: that leaves empty -wal and -shm files behind.
    connection.execute("PRAGMA query_only=ON")


def _migrate(engine: sa.Engine, output_id: str) -> None:
    """Bring the output's tables to this version's schema, under a lock where several processes may start at once."""
    if _revision(engine, output_id) == REVISION:
        return
    # Here, as in `_revision`: Alembic's import is 0.2 s of the start of every command, and most indexes are as they
    # should be.
    from pipeline.index.migrating import upgrade

    with _migration_lock(engine, output_id) as connection:
        upgrade(connection, prefix_of(output_id))
        marks = tables_of(output_id).marks
        upsert(connection, marks, [{"name": "output_id", "value": output_id}], replace=True)


def _check_schema(engine: sa.Engine, output_id: str) -> None:
    found = _revision(engine, output_id)
    where = engine.url.render_as_string(hide_password=True)
    if found is None:
        raise IndexMissing(f"there are no tables of this output's index at {where}")
    if found != REVISION:
        raise IndexOutdated(
            f"the index has schema revision {found}, this version's is {REVISION}; a command of a user who may change "
            "it migrates it"
        )


def _revision(engine: sa.Engine, output_id: str) -> str | None:
    """The revision that Alembic noted of the output's tables, None where there are none. Raises UserError."""
    prefix = prefix_of(output_id)
    noted = sa.table(f"{prefix}schema", sa.column("version_num"))
    with engine.connect() as connection:
        is_there = sa.inspect(connection).has_table(noted.name)
        found = ", ".join(sorted(connection.scalars(sa.select(noted.c.version_num)))) if is_there else ""
    if found in ("", REVISION):
        return found or None
    from pipeline.index.migrating import revisions

    if found not in revisions():
        raise UserError(
            f"the index has schema revision {found}, which this version does not know; upgrade omnidrop, or drop this "
            f"output's own tables, {prefix}..., and run `omnidrop rebuild` (the journal holds everything)"
        )
    return found


@contextmanager
def _migration_lock(engine: sa.Engine, output_id: str) -> Iterator[sa.Connection]:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql(
                f"SELECT pg_advisory_xact_lock(721605460, {zlib.crc32(output_id.encode()) >> 1})"
            )
        yield connection
        connection.commit()
