"""What an archive holds: media items with identity, etag and size, streamed in ascending order of their keys.

Promises: flat memory however many items there are, the same order for a local folder and for S3, keys kept exactly as
they are, and labels from archive name and key alone. Knows nothing about what is inside a file, so nothing about an
item's identity, which is its content. Skipped: the job's own output, S3 folder markers, and, counted by reason: hidden
files and folders, recycle bins and systems' own folders, links to what is listed anyway, anything that is not a regular
file.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from omnidrop.errors import UserError
from pipeline.archive.not_taken import NotTaken, Reason
from pipeline.config.globs import KeyFilter
from pipeline.config.locations import is_s3
from pipeline.config.sections import ArchiveConfig
from pipeline.identity import media_id
from pipeline.storage.errors import PASSES, StorageError, StorageUnavailable, Unavailable
from pipeline.storage.s3_client import s3_filesystem, s3_objects
from workers.media.opening import as_text, etag_of, is_below, local_uri, mark_of
from workers.records import Media

log = logging.getLogger(__name__)


MOST_NAMED = 5
"""Links named one by one."""


TOO_DEEP = "%s... is nested too deeply to be opened and is skipped"


class ArchiveError(UserError):
    """The archive cannot be listed, or there is nothing in it to ask about."""

    error_class = "archive"


class ArchiveEmpty(ArchiveError):
    """There is nothing in the archive to ask about."""


class ArchiveUnavailable(ArchiveError, Unavailable):
    """The archive does not answer now; it may pass."""

    error_class = "archive"


_STORAGE_BOXES = ("#recycle", "@recycle", "#snapshot", "~snapshot", "@eadir", "@tmp", "@sharebin")
BINS = frozenset(
    {
        *("$recycle.bin", "recycler", "recycled", "system volume information", "lost+found"),
        *("__macosx", "network trash folder", "temporary items"),
        *_STORAGE_BOXES,
    }
)
"""Names of folders in lower case: what was deleted, and what file systems and storage boxes keep for themselves."""


def list_media(
    config: ArchiveConfig, *, leave_out: str | None = None, not_taken: NotTaken | None = None
) -> Iterator[Media]:
    """The archive's media items in ascending order of their keys.

    `leave_out` is the job's own output, which may lie inside the archive. With `config.sample` only a random,
    reproducible sample comes, in the same order, after one pass that holds no more than the sample. Raises
    ArchiveError where the archive cannot be listed completely (an item that is only unreadable for a moment must not
    look deleted), or where it holds nothing that is taken. `not_taken` counts what is passed over.
    """
    left = not_taken or NotTaken()
    left.begin_listing()
    listed = _checked_not_empty(config, leave_out, left)
    return listed if config.sample is None else _sampled(listed, config.sample, config.seed)


def _checked_not_empty(config: ArchiveConfig, output: str | None, left: NotTaken) -> Iterator[Media]:
    keys = KeyFilter(config.include, config.exclude, match_case=config.match_case)
    files = taken = 0
    for media in _s3_media(config, output, left) if is_s3(config.uri) else _local_media(config, keys, output, left):
        files += 1
        if keys.takes(media.key):
            taken += 1
            yield media
        else:
            left.pass_over(media.key, Reason.PATTERN)
    if not taken and not files:
        passed = "; ".join(f"{name}: {count}" for name, count in left.lines())
        raise ArchiveEmpty(
            f"{config.uri}: the archive is empty; check archive.uri ({passed or 'hidden files do not count'})"
        )
    if not taken:
        raise ArchiveEmpty(
            f"{config.uri}: none of {files} files is taken by include {list(config.include)} and exclude "
            f"{list(config.exclude)}; *.mp4 fits in any folder, talks/** takes all of one"
        )


def _sampled(listed: Iterator[Media], size: int, seed: int) -> Iterator[Media]:
    """The `size` items with the smallest keyed hashes: a uniform sample in which a new file displaces at most one."""
    kept: list[tuple[int, int, Media]] = []
    for position, media in enumerate(listed):
        digest = hashlib.blake2b(media.key.encode(), digest_size=16, key=f"sample:{seed}".encode()).digest()
        # heapq keeps the smallest on top: the negated hash makes that the one to displace.
        item = (-int.from_bytes(digest, "big"), position, media)
        if len(kept) < size:
            heapq.heappush(kept, item)
        elif item > kept[0]:
            heapq.heapreplace(kept, item)
    yield from (media for _, _, media in sorted(kept, key=lambda item: item[1]))


def _is_hidden(name: str) -> bool:
    # S3 keys may hold `.` and `..` as names like any other.
    return name.startswith(".") and name not in (".", "..")


def s3_mark(size: int, etag: str) -> str:
    """What `mark_of` is for a local file, of an object, by its ETag without quotes."""
    return f"{size}-{etag}"


def is_bin(name: str) -> bool:
    """Whether a folder of this name holds what was deleted, or what a system keeps for itself."""
    name = name.lower()
    return name in BINS or name.startswith(".trash") or (name.startswith("found.") and name[6:].isdigit())


def _s3_media(config: ArchiveConfig, output: str | None, left: NotTaken) -> Iterator[Media]:
    bucket, _, prefix = config.uri.removeprefix("s3://").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    # Only an output inside the archive: below one that lies around it is the archive, too.
    own = f"{output}/" if output is not None and f"{output}/".startswith(f"s3://{bucket}/{prefix}") else None
    filesystem = s3_filesystem(config.endpoint_url, anonymous=config.anonymous)
    try:
        for item in s3_objects(filesystem, bucket, prefix):
            key = item["Key"].removeprefix(prefix)
            uri = f"s3://{bucket}/{item['Key']}"
            is_marker = key.endswith("/") or not key
            if is_marker or (own is not None and uri.startswith(own)):
                continue
            names = key.split("/")
            if not config.recycle_bins and any(map(is_bin, names[:-1])):
                left.pass_over(key, Reason.BIN)
                continue
            if any(map(_is_hidden, names)):
                left.pass_over(key, Reason.HIDDEN)
                continue
            etag, size = item["ETag"].strip('"'), item["Size"]
            yield Media(media_id(config.identity, key), key, uri, etag, size, s3_mark(size, etag))
    except StorageError as error:
        kind = ArchiveUnavailable if isinstance(error, StorageUnavailable) else ArchiveError
        raise kind(f"the archive cannot be listed: {error}") from error


def _local_media(config: ArchiveConfig, keys: KeyFilter, output: str | None, left: NotTaken) -> Iterator[Media]:
    root = Path(config.uri)
    try:
        what = None if stat.S_ISDIR(root.stat().st_mode) else "is a file"
    except (FileNotFoundError, NotADirectoryError):
        what = "does not exist"
    except OSError as error:
        raise _unlistable(str(root), error) from error
    if what is not None:
        raise ArchiveError(
            f"archive.uri: {root} {what}; give the folder that holds the media, or s3://bucket/prefix for S3"
        )
    own = None if output is None or is_s3(output) else os.path.realpath(output)
    walk = _Walk(config, keys, own, left)
    yield from walk.folder(str(root), "")
    walk.tell()


class _Walk:
    """One walk over a local archive; remembers which linked folders it has entered, and where linked files lie."""

    def __init__(self, config: ArchiveConfig, keys: KeyFilter, own_output: str | None, left: NotTaken) -> None:
        self._left, self._takes_bins = left, config.recycle_bins
        self._identity = config.identity
        self._keys = keys
        self._own_output = own_output
        self._root, self._follow_links = config.uri, config.follow_links
        self._outward: list[str] = []
        self._entered = [os.path.realpath(config.uri)]
        self._linked: set[str] = set()

    def folder(self, path: str, prefix: str) -> Iterator[Media]:
        """What is below a folder; folders within folders may be as deep as paths can be long."""
        open_folders = [(path, prefix, iter(self._names(path)))]
        while open_folders:
            path, prefix, names = open_folders[-1]
            if (named := next(names, None)) is None:
                open_folders.pop()
                continue
            name, text = named
            if name.endswith("/"):
                inner, key = f"{path}/{name[:-1]}", prefix + text
                if self._is_own_output(inner):
                    continue
                if self._keys.enters(key):
                    open_folders.append((inner, f"{key}/", iter(self._names(inner))))
                else:
                    self._left.pass_over(f"{key}/", Reason.PATTERN)
            elif (media := self._media(f"{path}/{name}", prefix + text)) is not None:
                yield media

    def _names(self, path: str) -> list[tuple[str, str]]:
        """A folder's names, and what they are in keys, in the order of the keys below them: a folder sorts with the
        slash that follows it."""
        try:
            with os.scandir(path) as entries:
                visible = sorted((e for e in entries if self._is_shown(e)), key=lambda entry: entry.name)
                names = sorted(entry.name + "/" if self._is_folder(entry) else entry.name for entry in visible)
            return _as_keys(names)
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                log.warning(TOO_DEEP, path[:200])
                return []
            raise _unlistable(path, error) from error

    def _is_shown(self, entry: os.DirEntry[str]) -> bool:
        reason = Reason.HIDDEN if _is_hidden(entry.name) else None
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and is_bin(entry.name) and not self._takes_bins:
            reason = Reason.BIN
        if reason is not None:
            self._left.pass_over(entry.name + "/" * is_folder, reason)
        return reason is None

    def tell(self) -> None:
        """Say what was left out because it leads out of the archive."""
        if self._outward:
            named = ", ".join(as_text(os.path.relpath(path, self._root)) for path in self._outward[:MOST_NAMED])
            log.warning(
                "%d links point outside the archive and are skipped: %s%s; archive.follow_links: true follows them",
                *(len(self._outward), named, ", ..." if len(self._outward) > MOST_NAMED else ""),
            )

    def _is_own_output(self, path: str) -> bool:
        """By inode: the real path of a folder takes as many looks as it is deep."""
        try:
            return self._own_output is not None and os.path.samefile(path, self._own_output)
        except OSError:
            return False

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        """A linked folder counts once, and only where it leads out of what is listed already: no loops, no doubles."""
        if not entry.is_symlink():
            return entry.is_dir()
        if not os.path.isdir(entry.path):
            return False
        target = os.path.realpath(entry.path)
        if any(_contains(entered, target) or _contains(target, entered) for entered in self._entered):
            self._left.pass_over(f"{entry.name}/", Reason.LINK)
            return False
        if not self._follow_links:
            self._outward.append(entry.path)
            self._left.pass_over(f"{entry.name}/", Reason.OUTWARD)
            return False
        self._entered.append(target)
        return True

    def _media(self, path: str, key: str) -> Media | None:
        try:
            status = os.stat(path)
        except OSError as error:
            is_broken = isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.ELOOP
            if os.path.islink(path) and (is_broken or not self._follow_links):
                self._left.pass_over(key, Reason.SPECIAL)
            elif error.errno == errno.ENAMETOOLONG:
                log.warning(TOO_DEEP, path[:200])
            elif not is_broken:  # otherwise gone since the folder was read
                raise _unlistable(path, error) from error
            return None
        if not stat.S_ISREG(status.st_mode):
            if not stat.S_ISDIR(status.st_mode):  # a linked folder is counted where it was not entered
                self._left.pass_over(key, Reason.SPECIAL)
            return None
        if os.path.islink(path):
            target = os.path.realpath(path)
            if not self._follow_links and not is_below(target, self._root):
                self._outward.append(path)
                self._left.pass_over(key, Reason.OUTWARD)
                return None
            if target in self._linked or self._is_listed_itself(target):
                self._left.pass_over(key, Reason.LINK)
                return None
            self._linked.add(target)
        name, etag = media_id(self._identity, key), etag_of(status)
        return Media(name, key, local_uri(path), etag, status.st_size, mark_of(status))

    def _is_listed_itself(self, target: str) -> bool:
        """Whether a linked file is met under its own name, too: what is hidden or excluded there is not."""
        if not is_below(target, self._root) or (self._own_output and is_below(target, self._own_output)):
            return False
        names = os.path.relpath(target, os.path.realpath(self._root)).split("/")
        if any(map(_is_hidden, names)) or (not self._takes_bins and any(map(is_bin, names[:-1]))):
            return False
        return self._keys.takes(as_text("/".join(names)))


def _as_keys(names: list[str]) -> list[tuple[str, str]]:
    """Names with what they are in keys. One that is no text (`as_text`) may look like another that is: it then gets
    more backslashes until no other name of the folder looks like that."""
    texts = {name: as_text(name) for name in names}
    taken = {name.rstrip("/") for name, text in texts.items() if name == text}
    found = []
    for name in names:
        text = texts[name].rstrip("/")
        if name != texts[name]:
            while text in taken:
                text += "\\"
            taken.add(text)
        found.append((name, text))
    return sorted(found, key=lambda pair: pair[1] + "/" * pair[0].endswith("/"))


def _unlistable(path: str, error: OSError) -> ArchiveError:
    """What is left out of a listing would look deleted."""
    if error.errno in PASSES:
        return ArchiveUnavailable(f"the archive cannot be listed: {path}: {error.strerror}; check its disk or mount")
    return ArchiveError(
        f"the archive cannot be listed: {path}: {error.strerror}; make it readable, or exclude it with archive.exclude"
    )


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
