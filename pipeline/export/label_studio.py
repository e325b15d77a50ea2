"""Moments as tasks with predictions for Label Studio's video timelines, to be corrected there.

`omnidrop review --import` reads the corrected ones. The labelling interface must name its tags `timeline` and `video`:

    <View><TimelineLabels name="timeline" toName="video"><Label value="heard: yes"/></TimelineLabels>
    <Video name="video" value="$video" framerate="$fps"/></View>
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from pipeline.export.base import Format
from pipeline.export.moments import Moment, Video, line


def _write(videos: Sequence[Video]) -> bytes:
    return (json.dumps([_task(video) for video in videos], ensure_ascii=False, indent=1) + "\n").encode()


def _task(video: Video) -> dict[str, object]:
    probabilities = [moment.probability for moment in video.moments if moment.probability is not None]
    return {
        "data": {
            "video": video.uri,
            "media_key": video.key,
            "fps": float(video.counted().rate),
            "duration_s": video.duration_s,
            # Shown with `<Header value="$whole_QUESTION"/>`: a result would need a tag in every interface.
            **{f"whole_{one.question_id}": line(one.answer) for one in video.whole},
        },
        "predictions": [
            {
                "model_version": video.model,
                "score": min(probabilities, default=0.0),
                "result": [_result(video, moment) for moment in video.moments],
            }
        ],
    }


def _result(video: Video, moment: Moment) -> dict[str, object]:
    first, after = video.counted().span(moment.start_s, moment.end_s)
    identity = f"{video.key}\n{moment.title}\n{first}"
    return {
        "id": hashlib.blake2b(identity.encode("utf-8", "replace"), digest_size=5).hexdigest(),
        "from_name": "timeline",
        "to_name": "video",
        "type": "timelinelabels",
        # Frames count from 1, and the last one belongs to the range.
        "value": {"ranges": [{"start": first + 1, "end": after}], "timelinelabels": [moment.title]},
        "score": moment.probability,
    }


LABEL_STUDIO = Format(
    "tasks with predictions for Label Studio's video timelines", ".json", _write, True, True, holds_whole=True
)
