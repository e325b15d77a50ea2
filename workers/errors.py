"""Why a media item or a clip could not be used: one exception per stable error class of the workers.

Promises: `error_class` never changes once released (quarantine rows and `retry --error-class` hold it), and a message
says what was found and, where something can be done, what. Knows nothing about where the errors are stored.
"""

from __future__ import annotations

from typing import ClassVar

from omnidrop.errors import ModelError, OmniDropError, UserError


class FfmpegMissing(UserError):
    """No ffmpeg can be run on this machine."""

    error_class: ClassVar[str] = "ffmpeg_missing"


class ConfinementMissing(UserError):
    """This machine's kernel does not confine the processes that read media as the job asks for."""

    error_class: ClassVar[str] = "confinement"


class ResourceLimit(UserError):
    """A limit on this process's resources (`ulimit`) is below what decoding a clip takes."""

    error_class: ClassVar[str] = "resource_limit"


class DecoderMissing(UserError):
    """This machine has no decoder of the kind that the job asks for."""

    error_class: ClassVar[str] = "decoder_missing"


class DeviceBroken(ModelError):
    """The device cannot be used any more by this process, which must end: later clips would all fail."""


class MediaError(OmniDropError):
    """A media item or one of its clips cannot be used. Other items are not affected."""

    error_class: ClassVar[str] = "media_error"


class MediaMissing(MediaError):
    """The file was listed, but cannot be opened now: deleted, renamed or unreadable."""

    error_class: ClassVar[str] = "media_missing"


class MediaChanged(MediaError):
    """The file is not the one that was planned: its etag changed."""

    error_class: ClassVar[str] = "media_changed"


class MediaTooLarge(MediaError):
    """The file, its pictures or a decoded clip are larger than a limit."""

    error_class: ClassVar[str] = "too_large"


class NotMedia(MediaError):
    """Not a regular file in a supported container."""

    error_class: ClassVar[str] = "not_media"


class Sidecar(NotMedia):
    """A file that lies beside media, by its name and its content: counted, and no failure."""

    error_class: ClassVar[str] = "sidecar"


class MediaTruncated(MediaError):
    """The container's index is missing because the file was cut off."""

    error_class: ClassVar[str] = "truncated"


class NoStreams(MediaError):
    """Neither video nor audio to decode."""

    error_class: ClassVar[str] = "no_streams"


class MediaEncrypted(MediaError):
    """The video or audio is encrypted: nothing can be decoded without the key."""

    error_class: ClassVar[str] = "encrypted"


class TrackMissing(MediaError):
    """The track that the job asks for is not in the file."""

    error_class: ClassVar[str] = "no_such_track"


class NoDuration(MediaError):
    """The length is neither declared nor found by scanning within the limits."""

    error_class: ClassVar[str] = "no_duration"


class ProbeCrashed(MediaError):
    """The probing process crashed on this file."""

    error_class: ClassVar[str] = "probe_crashed"


class ProbeTimeout(MediaError):
    """Probing did not end within its limit."""

    error_class: ClassVar[str] = "probe_timeout"


class ClipTooShort(MediaError):
    """No picture, and less sound than a model can hear."""

    error_class: ClassVar[str] = "too_short"


class DecodeFailed(MediaError):
    """ffmpeg decoded nothing of the span."""

    error_class: ClassVar[str] = "decode_failed"


class DecodeTimeout(MediaError):
    """Decoding one clip did not end within its limit."""

    error_class: ClassVar[str] = "decode_timeout"


class DecodeKilled(MediaError):
    """ffmpeg was killed from outside, usually by the system for lack of memory, or was refused threads or files. Worth
    another try."""

    error_class: ClassVar[str] = "decode_killed"


class DecodeIncomplete(MediaError):
    """Less of the clip could be decoded than `DecodeSettings.min_share`."""

    error_class: ClassVar[str] = "decode_incomplete"


class StorageFailed(MediaError):
    """The object store could not deliver the file."""

    error_class: ClassVar[str] = "storage"


class MediaRefused(MediaError):
    """The store or the file system refuses the file, to these credentials or this user or to all."""

    error_class: ClassVar[str] = "access_refused"


class CacheFull(MediaError):
    """The node-local cache has no room for the file now: its disk is full, or what it holds is in use."""

    error_class: ClassVar[str] = "cache_full"


class CacheUnsafe(MediaError):
    """Other users can reach into the node-local cache: nothing is fetched into it or taken from it."""

    error_class: ClassVar[str] = "cache_unsafe"


class CacheTooSmall(CacheFull):
    """The file is larger than the whole cache may be."""

    error_class: ClassVar[str] = "cache_too_small"
