"""A store as pyarrow's file system, for reading tables in place."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.fs

from pipeline.config.locations import is_s3
from pipeline.config.sections import StorageConfig
from pipeline.storage.s3_client import s3_filesystem


def arrow_filesystem(uri: str, storage: StorageConfig, *, anonymous: bool = False) -> tuple[pa.fs.FileSystem, str]:
    """A file system for pyarrow, and what the paths of `uri` begin with on it; `anonymous` without credentials."""
    if not is_s3(uri):
        return pa.fs.LocalFileSystem(), uri
    filesystem = s3_filesystem(storage.endpoint_url, anonymous=anonymous, max_retries=storage.max_retries)
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(filesystem)), uri.removeprefix("s3://")
