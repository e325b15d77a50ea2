"""What counts in one stable place, for readers that know folders and no manifests: DuckDB, Polars, Spark, Athena.

Promises: `tables/live/<table>/*.parquet` may be read at any moment and gives each row that counts once, because a row
has one file for ever (by the hash of its content) and a file is replaced by one write; what a run that died left
behind is made good by the next one. Knows nothing about what counts: it copies what the manifest names.

    tables/live/answers/bucket-007.parquet
    tables/live.json                          which generation the live files are of, and their hashes
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from omnidrop.errors import OmniDropError
from pipeline.failpoints import reached
from pipeline.records.checksummed_parquet import digest
from pipeline.tables.manifest import NAMES, Published, bucket_name, current
from pipeline.tables.writer import empty_file

if TYPE_CHECKING:
    from pipeline.storage.store import Store

STATE = "tables/live.json"
FOLDER = "tables/live/"
WRITERS = 8
FIRST = f"{bucket_name(0)}.parquet"
"""Has no rows and is never replaced: many readers take the columns from the first file, and open it a second time."""


def live_path(path: str) -> str:
    """Where the live twin of a generation's file lies: (both below `tables/`)."""
    _, name, bucket = path.split("/")
    return f"live/{name}/{bucket}"


def bring_up(store: Store, published: Published, *, anew: bool = False) -> None:
    """Make the live files those of a generation; those that are already, as far as is known, are left alone. `anew`
    writes every one: what was damaged or edited since is not known."""
    generation, there = (None, {}) if anew else _state(store)
    if generation == published.generation:
        return
    written: set[str] = set()
    while True:
        wanted = {live_path(path): path for path in published.files}
        # A bucket that is empty now keeps a file without rows: a reader may just have listed it.
        emptied = {path for path, _ in _listed(store)} | {f"live/{name}/{FIRST}" for name in NAMES}
        emptied -= wanted.keys()
        todo = [
            (path, source)
            for path, source in wanted.items()
            if path in written or there.get(path) != published.files[source].blake2b
        ]
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda pair: _replace(store, *pair), todo))
        for path in sorted(emptied):
            name = path.split("/")[1]
            if name in NAMES and there.get(path) != digest(data := empty_file(name)):
                store.write(f"tables/{path}", data)
        marks = {path: published.files[source].blake2b for path, source in wanted.items()}
        marks |= {path: digest(empty_file(path.split("/")[1])) for path in emptied if path.split("/")[1] in NAMES}
        store.write(STATE, json.dumps({"generation": published.generation, "files": marks}).encode())
        written |= {path for path, _ in todo}
        now = current(store)
        if now is None or now.generation == published.generation:
            return
        published = now  # another run has published meanwhile: what was written here must not outlast what it wrote


def _replace(store: Store, path: str, source: str) -> None:
    store.write(f"tables/{path}", store.read_bytes(f"tables/{source}"))
    reached("live_file_written")


def _listed(store: Store) -> list[tuple[str, int]]:
    found = ((path.removeprefix("tables/"), size) for path, size in store.list(FOLDER))
    return [(path, size) for path, size in found if path.endswith(".parquet") and path.count("/") == 2]


def _state(store: Store) -> tuple[int | None, dict[str, str]]:
    """Which generation is live, and what the files are; nothing where that is not known, or files are missing."""
    try:
        given = json.loads(store.read_bytes(STATE))
        marks = {str(path): str(mark) for path, mark in given["files"].items()}
        generation = int(given["generation"])
    except (FileNotFoundError, KeyError, TypeError, ValueError, AttributeError, OmniDropError):
        return None, {}
    there = {path for path, _ in _listed(store)}
    if marks.keys() <= there:
        return generation, marks
    return None, {path: mark for path, mark in marks.items() if path in there}
