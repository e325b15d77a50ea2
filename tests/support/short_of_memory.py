"""One clip answered with memory to spare, with too little, and with none: `python -m tests.support.short_of_memory`.

A process of its own, because the limit is the process's address space: what fails is the real allocator. Prints a line
of JSON for each: the row's video tokens, frames and notes, or the failure's class.
"""

from __future__ import annotations

import json
import re
import resource
import threading
import time
from pathlib import Path

import numpy as np

from omnidrop.questions import Boolean, Choice, Question
from pipeline.records.unit import decode_unit, encode_unit
from tests.support.rows import media, meta, unit
from workers.model.answerer import Answerer
from workers.model.settings import AnswererSettings
from workers.records import Clip, ClipFailure, DecodedClip

QUESTIONS = (Question("colour", "What colour?", Choice(("red", "green"))), Question("heard", "A tone?", Boolean()))
FRAMES, SIDE = 32, 140
SHARES = (2.0, 1.7, 1.45, 1.25, 1.1, 0.95, 0.8, 0.7, 0.6)
"""Of the room that a clip was seen to take."""


def clip(seed):
    """Noise, so that no frame repeats another."""
    frames = np.random.default_rng(seed).integers(0, 255, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    return DecodedClip(Clip(f"clip-{seed}", 0, 0.0, FRAMES / 2), frames, None, 2.0, 1.0, 0.1)


def address_space():
    return int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def peak_of(work):
    """What `work` gives, and how far the address space grew meanwhile."""
    before, seen, done = address_space(), [0], threading.Event()

    def watch():
        while not done.is_set():
            seen.append(address_space())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = work()
    done.set()
    watcher.join()
    return result, max(seen) - before


def say(outcome):
    if isinstance(outcome, ClipFailure):
        print(json.dumps({"error_class": outcome.error_class}))
        return
    (row,) = decode_unit(encode_unit(meta(unit(media())), [outcome], QUESTIONS), where="here").rows.to_pylist()
    print(json.dumps({name: row[name] for name in ("video_tokens", "frames", "notes")}))


def answered_within(answerer, seed, room):
    """A clip's outcome where the address space may grow by `room` bytes."""
    given = clip(seed)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + room, resource.RLIM_INFINITY))
    outcome = answerer.answer(given, QUESTIONS)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return outcome


def main():
    answerer = Answerer(AnswererSettings("tiny", device="cpu", torch_threads=1))
    answerer.answer(clip(0), QUESTIONS)  # loads, and takes what stays taken
    roomy, needed = peak_of(lambda: answerer.answer(clip(1), QUESTIONS))
    say(roomy)
    # The top was looked at from a thread that may have had to wait for a core, so the room shrinks from more than that
    # until it no longer is enough: for half of the clip it is, then.
    rooms = [int(share * needed) for share in SHARES]
    made = (answered_within(answerer, seed, room) for seed, room in enumerate(rooms, start=10))
    say(next(outcome for outcome in made if outcome.notes))
    say(answered_within(answerer, 2, 0))
    say(answerer.answer(clip(3), QUESTIONS))


if __name__ == "__main__":
    main()
