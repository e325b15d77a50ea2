"""Files of an archive that lie beside its media: which there are, and what they hold.

Promises: a file is found by its key, listed or not (patterns of the job are for media), and read up to a bound; a link
that leads out of the archive is not followed unless the job follows links; one look serves neighbours: a folder is read
once, a bucket a page at a time. Knows nothing about what such files say.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from itertools import islice
from typing import Any

from pipeline.config.locations import is_s3
from pipeline.config.sections import ArchiveConfig
from pipeline.storage.s3_client import S3_PAGE, explain_s3_error, s3_filesystem, s3_objects
from workers.errors import MediaError
from workers.media.opening import as_text, local_path, opened_below
from workers.records import Media


class BesideUnreadable(Exception):
    """A file is there and cannot be read; the message says why."""


class Beside:
    """One command's looks beside media. Used by one thread."""

    def __init__(self, archive: ArchiveConfig) -> None:
        self._archive = archive
        self._is_s3 = is_s3(archive.uri)
        self._folder: tuple[str, list[str]] = ("", [])
        self._page: tuple[str, list[str], bool] | None = None
        self._filesystem: Any = None

    def names(self, media: Media, stem: str) -> list[str]:
        """Names in a media item's folder that begin with `stem` and a dot. Raises BesideUnreadable and StorageError."""
        if self._is_s3:
            folder = media.key.rpartition("/")[0]
            prefix = f"{folder}/{stem}." if folder else f"{stem}."
            return [name for key in self._keys(prefix) if "/" not in (name := key[len(folder) + bool(folder) :])]
        folder = os.path.dirname(local_path(media.uri))
        if folder != self._folder[0]:
            self._folder = folder, _names_in(folder)
        names = self._folder[1]
        start = bisect_left(names, f"{stem}.")
        return [name for name in islice(names, start, start + S3_PAGE) if name.startswith(f"{stem}.")]

    def read_near(self, media: Media, name: str, most: int) -> tuple[str, bytes] | None:
        """Key and first bytes of a file in a media item's folder; None where it is gone.

        Raises BesideUnreadable, and StorageError where the archive does not answer."""
        folder = media.key.rpartition("/")[0]
        key = f"{folder}/{as_text(name)}" if folder else as_text(name)
        if self._is_s3:
            return self._read(key, most)
        return self._read_local(key, os.path.join(os.path.dirname(local_path(media.uri)), name), most)

    def read(self, key: str, most: int) -> tuple[str, bytes] | None:
        """The same of a file by its key."""
        return self._read(key, most) if self._is_s3 else self._read_local(key, f"{self._archive.uri}/{key}", most)

    def _read_local(self, key: str, path: str, most: int) -> tuple[str, bytes] | None:
        if not os.path.lexists(path):
            return None
        below = None if self._archive.follow_links else self._archive.uri
        try:
            if os.path.isfile(path) and not os.path.getsize(path):
                return key, b""
            with opened_below(path, below) as checked, os.fdopen(os.dup(checked.fd), "rb") as file:
                return key, file.read(most)
        except (MediaError, OSError) as error:
            raise BesideUnreadable(f"{key}: {error}") from error

    def _read(self, key: str, most: int) -> tuple[str, bytes] | None:
        uri = f"{self._archive.uri}/{key}"
        try:
            info = self._store().info(uri)
            return key, self._store().cat_file(uri, start=0, end=most) if info["size"] else b""
        except Exception as error:
            explained = explain_s3_error(error, uri)
            if isinstance(explained, FileNotFoundError):
                return None
            raise explained from error

    def _keys(self, prefix: str) -> list[str]:
        """Keys that begin so, at most a page of them."""
        if self._page is None or not _is_within(self._page, prefix):
            bucket, _, below = self._archive.uri.removeprefix("s3://").partition("/")
            below = f"{below}/" if below else ""
            # From here on rather than only these: the next media item's are among them.
            after = f"{below}{prefix}"[:-1]
            listed = s3_objects(self._store(), bucket, below, after=after)
            keys = [item["Key"].removeprefix(below) for item in islice(listed, S3_PAGE)]
            self._page = prefix, keys, len(keys) < S3_PAGE
        return [key for key in self._page[1] if key.startswith(prefix)]

    def _store(self) -> Any:
        if self._filesystem is None:
            self._filesystem = s3_filesystem(self._archive.endpoint_url, anonymous=self._archive.anonymous)
        return self._filesystem


def _is_within(page: tuple[str, list[str], bool], prefix: str) -> bool:
    """Whether a page holds all keys with a prefix: it begins before them, and goes on behind them."""
    first, keys, is_last = page
    if prefix.encode() < first.encode():
        return False
    last = keys[-1] if keys else ""
    return is_last or prefix == first or (last.encode() > prefix.encode() and not last.startswith(prefix))


def _names_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BesideUnreadable(f"{as_text(folder)}: {error.strerror}") from error
