"""Parquet objects under a seal: a hash over every byte, kept in the object's own footer.

Promises: what is sealed comes back as it was or not at all; a damaged object is named, never misread, and so is one
that unpacks to more than `OBJECT_BYTES`, in bounded memory: an output may be somebody else's. Knows nothing about what
the objects hold or where they lie.
"""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from omnidrop.errors import OmniDropError, first_line
from omnidrop.json_text import parse_json
from pipeline.memory_bound import bounded_memory, is_out_of_memory
from pipeline.records.legacy import formats as legacy

FORMAT_VERSION = 4
"""Of everything below `journal/` and `tables/`; raised when an older version would misread a newer one. What came
with each, and how earlier ones are read, is in `pipeline/records/legacy/`."""

OBJECT_BYTES = 2 << 30
"""Of one object as a table: pointers to four million files."""

_META = b"omnidrop"
_SEAL = "omnidrop.seal"
_DIGEST_BYTES = 16
_BLANK = b"0" * (2 * _DIGEST_BYTES)
"""What stands in the seal's place while the hash is made."""


class JournalError(OmniDropError):
    """The results hold something this version cannot read; the message says what and what to do."""

    error_class = "journal"


def digest(data: bytes) -> str:
    """The hash that seals and manifests use, in hexadecimal."""
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def seal(table: pa.Table, meta: Mapping[str, Any]) -> bytes:
    """A table as a sealed Parquet object; `meta` (JSON values) travels in its footer."""
    kept = json.dumps({"format_version": FORMAT_VERSION, **meta}).encode()
    sink = io.BytesIO()
    schema = table.schema.with_metadata({_META: kept})
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        writer.write_table(table.replace_schema_metadata(schema.metadata))
        # By chance, so that nothing in the table or in `meta` can be taken for the seal's place.
        place = secrets.token_hex(_DIGEST_BYTES)
        writer.add_key_value_metadata({_SEAL: place})
    blank = sink.getvalue().replace(place.encode(), _BLANK)
    at = sink.getvalue().index(place.encode())
    return blank[:at] + digest(blank).encode() + blank[at + len(_BLANK) :]


def unseal(data: bytes, *, where: str) -> tuple[pa.Table, dict[str, Any]]:
    """The inverse of `seal`: the table, and `meta` with its `format_version`.

    Objects of the first format have no seal and are taken as they are. Raises JournalError, naming `where`.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        found = file.metadata.metadata or {}
        meta: dict[str, Any] = parse_json(found.get(_META, b'{"format_version": 1}'))
        version = int(meta["format_version"])
        sealed = found.get(_SEAL.encode())
        if not (sealed is None and legacy.may_lack_checksum(version)) and not _is_whole(data, sealed or b""):
            raise ValueError("its content is not what was written")
        if version > FORMAT_VERSION:
            raise JournalError(
                f"{where} has journal format {version}, this version reads up to {FORMAT_VERSION}; upgrade omnidrop"
            )
        if packed := [field.name for field in file.schema_arrow if _is_packed(field.type)]:
            raise JournalError(
                f"{where} keeps values once for many rows (a dictionary, column {packed[0]}), which no run writes; "
                "do not trust this output, or delete the object and run the job again"
            )
        with bounded_memory():
            table = file.read().replace_schema_metadata(None)
        if table.nbytes > OBJECT_BYTES:
            raise MemoryError
        return table, meta
    except (MemoryError, pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise JournalError(
                f"{where} unpacks to more than {OBJECT_BYTES >> 30} GB, which no run writes; do not trust this "
                "output, or delete the object and run the job again"
            ) from error
        raise JournalError(f"{where} is damaged ({first_line(error)}); delete it and run the job again") from error


def _is_packed(kind: pa.DataType) -> bool:
    """Whether a value may stand once for many rows, so that what a table holds says nothing of what is made of it."""
    is_shared = pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind)
    return is_shared or any(_is_packed(kind.field(i).type) for i in range(kind.num_fields))


def _is_whole(data: bytes, sealed: bytes) -> bool:
    return len(sealed) == len(_BLANK) and digest(data.replace(sealed, _BLANK)).encode() == sealed
