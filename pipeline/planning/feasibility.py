"""Whether a job's retained ratio can be reached at all, asked before a model is loaded.

Promises: reads the checkpoint's configuration alone; what it refuses, every clip of such a media item would be refused
for. Knows nothing about what is asked or how a run goes on. Imports torch, so it is imported where work is to be done.
"""

from __future__ import annotations

from omnidrop.errors import ClipTooLong, PolicyError, UserError
from omnidrop.estimate import Estimator
from omnidrop.policies.schedule import Schedule
from pipeline.config.job import JobConfig
from pipeline.config.worker_settings import decode_settings, pruning_of
from workers.media.clip_reader import decoded_shape
from workers.records import MediaInfo


def check_reachable(job: JobConfig, key: str, info: MediaInfo) -> Schedule:
    """How many tokens of a clip of full length of this media item enter each decoder layer.

    Of full length, because a short rest at the end of one file is no reason to refuse a job; of the whole item where
    that is more than the model can read. Raises PolicyError with the floor where the ratio is below it, UserError where
    a clip is too long for the model, CheckpointError.
    """
    length_s = job.clips.longest_s
    try:
        try:
            return _schedule(job, info, length_s)
        except ClipTooLong:
            length_s = min(length_s, info.duration_s)
            return _schedule(job, info, length_s)
    except PolicyError as error:
        raise PolicyError(f"a clip of {length_s:g} s of {key}: {error}") from error
    except ClipTooLong as error:
        raise UserError(f"{key}: {error} (clips.length_s)") from error


def _schedule(job: JobConfig, info: MediaInfo, length_s: float) -> Schedule:
    decoding = decode_settings(job.clips, job.execution)
    frames, height, width, samples = decoded_shape(info, length_s, decoding)
    return Estimator(job.model.checkpoint).schedule(
        pruning_of(job.pruning), frames=frames, height=height, width=width, samples=samples, fps=decoding.fps
    )
