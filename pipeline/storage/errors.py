"""What a store's failures are to the rest of the pipeline.

Promises: a failure that may pass tells itself apart from one that will not. Knows nothing about S3 or folders.
"""

from __future__ import annotations

import errno

from omnidrop.errors import UserError


class Unavailable(UserError):
    """Something that a run needs is full or does not answer. It may pass; the message says what would help."""

    error_class = "storage"


class StorageError(UserError):
    """A place in S3, or the place for results, cannot be read or written as configured."""

    error_class = "storage"


class StorageUnavailable(StorageError, Unavailable):
    """The same, but it may pass: the place does not answer, or has no room."""


PASSES = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
        # A mount whose other end is gone: FUSE (rclone, sshfs, s3fs), SMB, NFS.
        *(errno.ENOTCONN, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)
"""What a disk or a mount says while it is full or gone."""
