"""A small archive of real videos, in the states that a job meets it in, and the job over it.

Promises: the same files at the same paths with the same times for every round, so that ids and rows can be compared;
an archive that grows, changes and is changed back. Knows nothing about kills.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from workers.media.ffmpeg import find_ffmpeg

QUESTIONS = """\
name: crash
version: "1"
questions:
  - {id: shape, text: "Which shape is shown in {{ media.name }}?", answer: {type: choice, options: [circle, square]}}
  - {id: heard, text: 'Is a tone heard?', answer: {type: boolean}}
  - {id: ever, scope: video, text: 'Is a tone ever heard?', answer: {type: boolean}}
"""
MORE_QUESTIONS = "more.yaml"
ONE_MORE = """\
  - {id: many, text: 'How many shapes are there?', answer: {type: number, minimum: 0, maximum: 9}}
"""
TIME_NS = 1_700_000_000 * 10**9
"""When every file was last changed: part of a local file's etag."""


class World:
    """A folder with an archive, a job over it and, once there is one, its output."""

    def __init__(self, folder: Path, *, clips_per_unit: int) -> None:
        self.folder = folder
        self.archive, self.output, self.job = folder / "archive", folder / "results", folder / "job.yaml"
        self._sources = folder / "sources"
        for made in (self.archive, self._sources):
            made.mkdir(parents=True)
        (folder / "questions.yaml").write_text(QUESTIONS)
        (folder / MORE_QUESTIONS).write_text(QUESTIONS + ONE_MORE)
        # The caps leave room: a random kill must not look like a clip that kills.
        self.job.write_text(
            "name: crash\narchive: {uri: archive, name: crash, max_missing: 1}\n"
            "output: results\nquestion_set: questions.yaml\n"
            "clips: {length_s: 2, fps: 1}\npruning: {retained_ratio: 0.4}\n"
            "model: {device: cpu, dtype: float32}\n"
            f"execution: {{clips_per_unit: {clips_per_unit}, max_deaths_per_clip: 4}}\n"
        )

    def put(self, key: str, *, hz: int, seconds: int = 4) -> None:
        """Put a video of a moving pattern and a tone of `hz` into the archive, in place of the one there."""
        source = self._sources / f"{hz}-{seconds}.mp4"
        if not source.exists():
            # Each video in its own colours: features of a picture seen before would be free, and costs not comparable.
            picture = f"testsrc2=size=64x48:rate=5:duration={seconds},hue=h={hz % 360}"
            sound = f"sine=frequency={hz}:duration={seconds}"
            arguments = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound, "-c:v", "libx264", "-preset"]
            arguments += ["ultrafast", "-c:a", "aac", "-shortest", str(source)]
            subprocess.run([find_ffmpeg(), "-nostdin", "-v", "error", *arguments], check=True)
        shutil.copyfile(source, self.archive / key)
        # Videos of different tones differ in time, too, should they be of one size.
        os.utime(self.archive / key, ns=(TIME_NS + hz, TIME_NS + hz))

    def put_text(self, key: str) -> None:
        """Put a file into the archive that is no video."""
        (self.archive / key).write_text("not a video at all")
        os.utime(self.archive / key, ns=(TIME_NS, TIME_NS))

    def keep(self, name: str) -> None:
        """Remember the output as it is."""
        shutil.copytree(self.output, self.folder / name)

    def restore(self, name: str | None) -> None:
        """Put the output back as it was remembered, or away with None."""
        shutil.rmtree(self.output, ignore_errors=True)
        if name is not None:
            shutil.copytree(self.folder / name, self.output)
