"""Files of an archive that lie beside its media: which there are, and what they hold.

Promises: a file is found by its key, listed or not (patterns of the job are for media), and read up to a bound; its
size and times, or its ETag, tell cheaply whether it is as it was; a link that leads out of the archive is not followed
unless the job follows links; one look serves neighbours: a folder is read once, a bucket a page at a time. Knows
nothing about what such files say.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pipeline.archive.listing import s3_mark
from pipeline.config.locations import is_s3
from pipeline.config.sections import ArchiveConfig
from pipeline.normal_forms import normal_forms
from pipeline.storage.s3_client import S3_PAGE, explain_s3_error, s3_filesystem, s3_objects
from workers.errors import MediaError
from workers.media.opening import as_text, local_path, mark_of, opened_below
from workers.records import Media


class BesideUnreadable(Exception):
    """A file is there and cannot be read; the message says why."""


@dataclass(frozen=True)
class File:
    """One file as it was found."""

    key: str
    where: str
    """Path or address."""
    size: int
    mark: str = ""
    """While it stays, so does the content; empty where that is not so sure: of a link."""


class Beside:
    """One command's looks beside media. Used by one thread."""

    def __init__(self, archive: ArchiveConfig) -> None:
        self._archive = archive
        self._is_s3 = is_s3(archive.uri)
        self._folder: tuple[str, list[str]] = ("", [])
        self._page: tuple[str, list[File], bool] | None = None
        self._filesystem: Any = None

    def near(self, media: Media, stem: str) -> dict[str, File]:
        """Files in a media item's folder whose names begin with `stem`, in whichever normal form, and a dot, by name.
        Raises BesideUnreadable and StorageError."""
        return {name: file for form in normal_forms(stem) for name, file in self._near(media, form).items()}

    def _near(self, media: Media, stem: str) -> dict[str, File]:
        folder = media.key.rpartition("/")[0]
        if self._is_s3:
            prefix = f"{folder}/{stem}." if folder else f"{stem}."
            found = {file.key[len(folder) + bool(folder) :]: file for file in self._files(prefix)}
            return {name: file for name, file in found.items() if "/" not in name}
        path = os.path.dirname(local_path(media.uri))
        if path != self._folder[0]:
            self._folder = path, _names_in(path)
        names = self._folder[1]
        start = bisect_left(names, f"{stem}.")
        named = [name for name in islice(names, start, start + S3_PAGE) if name.startswith(f"{stem}.")]
        keys = {name: f"{folder}/{as_text(name)}" if folder else as_text(name) for name in named}
        files = {name: _local(keys[name], os.path.join(path, name)) for name in named}
        return {name: file for name, file in files.items() if file is not None}

    def at(self, key: str) -> File | None:
        """The file with this key, if it is there. Raises StorageError where the archive does not answer."""
        where = f"{self._archive.uri}/{key}"
        if not self._is_s3:
            return _local(key, where)
        try:
            info = self._store().info(where)
        except Exception as error:
            explained = explain_s3_error(error, where)
            if isinstance(explained, FileNotFoundError):
                return None
            raise explained from error
        return File(key, where, info["size"], s3_mark(info["size"], info["ETag"].strip('"')))

    def read(self, file: File, most: int) -> tuple[File, bytes] | None:
        """A file as it is now, and its first bytes; None where it is gone.

        Raises BesideUnreadable, and StorageError where the archive does not answer."""
        return self._read(file, most) if self._is_s3 else self._read_local(file, most)

    def _read_local(self, file: File, most: int) -> tuple[File, bytes] | None:
        if (now := _local(file.key, file.where)) is None:
            return None
        below = None if self._archive.follow_links else self._archive.uri
        try:
            if not now.size and os.path.isfile(file.where):
                return now, b""
            with opened_below(file.where, below) as checked, os.fdopen(os.dup(checked.fd), "rb") as opened:
                content = opened.read(most)
                is_same = mark_of(os.fstat(checked.fd)) == now.mark
                return replace(now, mark=now.mark if is_same else ""), content
        except (MediaError, OSError) as error:
            raise BesideUnreadable(f"{file.key}: {error}") from error

    def _read(self, file: File, most: int) -> tuple[File, bytes] | None:
        try:
            return file, self._store().cat_file(file.where, start=0, end=most) if file.size else b""
        except Exception as error:
            explained = explain_s3_error(error, file.where)
            if isinstance(explained, FileNotFoundError):
                return None
            raise explained from error

    def _files(self, prefix: str) -> list[File]:
        """Files whose keys begin so, at most a page of them."""
        if self._page is None or not _is_within(self._page, prefix):
            bucket, _, below = self._archive.uri.removeprefix("s3://").partition("/")
            below = f"{below}/" if below else ""
            # From here on rather than only these: the next media item's are among them.
            after = f"{below}{prefix}"[:-1]
            listed = s3_objects(self._store(), bucket, below, after=after)
            files = [
                File(
                    key := item["Key"].removeprefix(below),
                    f"{self._archive.uri}/{key}",
                    item["Size"],
                    s3_mark(item["Size"], item["ETag"].strip('"')),
                )
                for item in islice(listed, S3_PAGE)
            ]
            self._page = prefix, files, len(files) < S3_PAGE
        return [file for file in self._page[1] if file.key.startswith(prefix)]

    def _store(self) -> Any:
        if self._filesystem is None:
            self._filesystem = s3_filesystem(self._archive.endpoint_url, anonymous=self._archive.anonymous)
        return self._filesystem


def _is_within(page: tuple[str, list[File], bool], prefix: str) -> bool:
    """Whether a page holds all keys with a prefix: it begins before them, and goes on behind them."""
    first, files, is_last = page
    if prefix.encode() < first.encode():
        return False
    last = files[-1].key if files else ""
    return is_last or prefix == first or (last.encode() > prefix.encode() and not last.startswith(prefix))


def _local(key: str, path: str) -> File | None:
    """What lies at a path, also where it cannot be opened; None where nothing does."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError:
        return File(key, path, 0)
    return File(key, path, found.st_size, mark_of(found) if stat.S_ISREG(found.st_mode) else "")


def _names_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BesideUnreadable(f"{as_text(folder)}: {error.strerror}") from error
