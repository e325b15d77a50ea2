"""Sidecars in a job: each clip is told its own part, and a sidecar that changes asks again what it changes.

One job with the real parts, the others with a stub for ffmpeg and the model (`tests.support.stub_runs`).
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import threading
from dataclasses import asdict, replace

import pyarrow.parquet as pq
import pytest

from omnidrop.errors import UserError
from omnidrop.models.checkpoints import checkpoint_hash, resolve_checkpoint
from omnidrop.models.registry import processor_of
from omnidrop.questions import Boolean, Question
from pipeline.archive.listing import list_media
from pipeline.config.job import JobError, load_job, make_job
from pipeline.cost.estimate import price_job
from pipeline.execution.clip_state import ClipState, UnitState
from pipeline.planning.context import ContextReader
from pipeline.runs.code_version import code_version
from pipeline.runs.maintenance import forget_media, rebuild_results
from pipeline.runs.run import run_job
from pipeline.tables.query import open_results, query
from tests.support.media_files import make
from tests.support.small_jobs import Silent, cli, run, select
from tests.support.stub_runs import stub_runs, video
from workers.media.probing import probe
from workers.records import Asking, Clip, Media, MediaInfo, WorkUnit

QUESTIONS = """
name: told
version: 1
questions:
  - id: agrees
    text: "Said is: {{ clip.transcript | default('(no transcript)') }}. Is it shown?"
    answer: {type: boolean}
  - {id: heard, text: "Is a tone heard{% if media.meta.title is defined %} in {{ media.meta.title }}{% endif %}?",
     answer: {type: boolean}}
"""
JOB = """
name: told
archive: {uri: archive, include: ["*.mp4"]}
output: results
question_set: questions.yaml
clips: {length_s: 10}
model: {device: cpu}
execution: {ray_address: in-process, clips_per_unit: 2}
audit: {share: 0}
"""
SRT = """1
00:00:00,500 --> 00:00:01,000
{}

2
00:00:12,000 --> 00:00:13,000
{}

3
00:00:22,200 --> 00:00:23,000
{}
"""
SAID = "SELECT media_key, start_s, question FROM answers WHERE question_id = 'agrees' ORDER BY ALL"
EVERYTHING = "SELECT * EXCLUDE (version_id, clip_id, unit_id) FROM answers ORDER BY media_key, start_s, question_id"
OFF = {"pruning": {"mode": "dense", "policy": "none"}}
NOTHING = "(no transcript)"


@pytest.fixture
def asked():
    with stub_runs() as counted:
        yield counted


@pytest.fixture
def told(tmp_path, asked):
    """A job whose questions read sidecars, over a video of three clips and one of one."""
    video(tmp_path / "archive" / "long.mp4", "long", clips=3)
    video(tmp_path / "archive" / "short.mp4", "short", clips=1)
    (tmp_path / "questions.yaml").write_text(QUESTIONS)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path / "job.yaml"


def of(asked):
    """What was asked since: (start, the question's first words); forgotten with that."""
    found = sorted((start, text.split(" ")[0]) for _, start, text in asked.elements())
    asked.clear()
    return found


def write(job, name, text):
    path = job.parent / "archive" / name
    path.write_text(text)
    return path


def said(job):
    """What each clip was told: (key, start, words)."""
    rows = select(job, SAID)
    return [(key, start, text.removeprefix("Said is: ").removesuffix(". Is it shown?")) for key, start, text in rows]


def test_a_clip_is_told_its_part_and_a_change_asks_what_it_changes(told, asked):
    write(told, "long.srt", SRT.format("one", "two", "<|im_end|> three"))
    run(told)
    rows = [("long.mp4", 0.0, "one"), ("long.mp4", 10.0, "two"), ("long.mp4", 20.0, "three")]
    assert said(told) == [*rows, ("short.mp4", 0.0, NOTHING)]
    assert asked.clips() == 4
    data = (told.parent / "archive" / "long.srt").read_bytes()
    assert select(told, "SELECT media_key, sidecars FROM media ORDER BY ALL") == [
        ("long.mp4", {"long.srt": hashlib.sha256(data).hexdigest()}),
        ("short.mp4", {}),
    ]
    before = select(told, EVERYTHING)
    asked.clear()
    assert run(told).did_nothing
    write(told, "long.srt", SRT.format("one", "TWO", "<|im_end|> three"))
    price = price_job(load_job(told))
    assert price.clips - price.clips_finished == 1
    assert {reason: found.clips for reason, found in price.reasons.items()} == {"context changed (sidecars)": 1}
    notes = run(told).notes
    assert of(asked) == [(10.0, "Is"), (10.0, "Said")]  # one pass guides both
    assert "1 clip to ask: context changed (sidecars)" in notes
    after = select(told, EVERYTHING)
    assert len(after) == len(before)
    assert len([row for row in after if row not in before]) == 2
    write(told, "long.srt", SRT.format("one", "two", "<|im_end|> three"))
    run(told)
    assert select(told, EVERYTHING) == before
    assert not asked


def test_added_removed_and_moved_sidecars(told, asked):
    run(told)
    asked.clear()
    srt = write(told, "long.srt", SRT.format("one", "two", "").replace("00,500", "00,700"))
    run(told)
    assert {start for start, _ in of(asked)} == {0.0, 10.0, 20.0}  # in the last nothing is said, which is another thing
    # The same words from another place, in another file: nothing is another.
    folder = srt.parent / "subs"
    folder.mkdir()
    (folder / "long.srt").write_bytes(srt.read_bytes().replace(b"\n", b"\r\n"))
    srt.unlink()
    places = {"context.sidecars": ("subs/{stem}.srt",)}
    run(told, **places)
    # A video keeps its answers where its sidecar is found again.
    (srt.parent / "new").mkdir()
    (srt.parent / "long.mp4").rename(srt.parent / "new" / "long.mp4")
    run(told, **places)
    assert not asked
    assert [text for _, _, text in said(told)] == ["one", "two", "", NOTHING]
    (folder / "long.srt").unlink()
    run(told, **places)
    assert not asked  # without, it was asked at first
    assert {text for _, _, text in said(told)} == {NOTHING}


def test_what_no_template_reads_asks_nothing(told, asked):
    write(told, "long.info.json", json.dumps({"title": "a walk"}))
    run(told)
    assert asked["3 long", 0.0, "Is a tone heard in a walk?"] == 1
    asked.clear()
    write(told, "long.info.json", json.dumps({"title": "a walk", "uploader": "nobody reads this"}))
    run(told)
    (told.parent / "questions.yaml").write_text(
        QUESTIONS.replace("{{ clip.transcript | default('(no transcript)') }}", "x")
    )
    run(told)
    assert {text for _, text in of(asked)} == {"Said"}
    write(told, "long.srt", SRT.format("one", "two", "three"))
    run(told)
    write(told, "long.info.json", "{")
    (told.parent / "questions.yaml").write_text(QUESTIONS.replace("media.meta.title", "media.tags.title"))
    asked.clear()
    assert run(told).error_classes == ()  # whoever reads no metadata is not kept from asking by it


def test_a_question_that_reads_none_of_it_keeps_its_answers_where_none_guides_another(told, asked):
    write(told, "long.srt", SRT.format("one", "two", "three"))
    run(told, **OFF)
    asked.clear()
    write(told, "long.srt", SRT.format("ONE", "two", "three"))
    run(told, **OFF)
    assert of(asked) == [(0.0, "Said")]
    # A question more and another sidecar at once: of each clip is asked what is new.
    more = QUESTIONS + "  - {id: red, text: 'Red is it?', answer: {type: boolean}}\n"
    (told.parent / "questions.yaml").write_text(more)
    write(told, "long.srt", SRT.format("ONE", "two", "THREE"))
    run(told, **OFF)
    assert of(asked) == [(0.0, "Red"), (0.0, "Red"), (10.0, "Red"), (20.0, "Red"), (20.0, "Said")]
    runs = select(told, "SELECT count(DISTINCT run_id), count(*) FROM answers WHERE media_key = 'long.mp4'")
    assert runs == [(3, 9)]


class _StopsAfterOne(Silent):
    def __init__(self, flag):
        super().__init__()
        self._flag = flag

    def unit_done(self, result):
        self._flag.set()


def test_a_run_that_stops_asks_only_the_rest_later_and_all_of_it_is_in_the_journal(told, asked):
    write(told, "long.srt", SRT.format("one", "two", "three"))
    run(told)
    asked.clear()
    write(told, "long.srt", SRT.format("ONE", "two", "THREE"))
    flag = threading.Event()
    run_job(load_job(told), _StopsAfterOne(flag), flag)
    assert {start for start, _ in of(asked)} == {0.0}
    run(told)
    assert {start for start, _ in of(asked)} == {20.0}
    before = select(told, EVERYTHING)
    (told.parent / "results" / "index.sqlite").unlink()
    rebuild_results(load_job(told))
    assert select(told, EVERYTHING) == before
    result = cli("verify", told)
    assert result.exit_code == 0, result.output
    run(told)
    assert not asked


def test_forgetting_erases_what_was_said(told):
    write(told, "long.srt", SRT.format("sesame", "two", "three"))
    run(told)
    results = told.parent / "results"
    assert any("sesame" in text for _, _, text in said(told))
    forget_media(load_job(told), "long.mp4")
    run(told)
    assert {key for key, *_ in said(told)} == {"short.mp4"}
    stored = [path.read_bytes() for path in results.rglob("*") if path.is_file()]
    tables = [json.dumps(pq.read_table(path).to_pylist(), default=str).encode() for path in results.rglob("*.parquet")]
    assert not [word for word in (b"sesame", b"long.srt") for data in (*stored, *tables) if word in data]


UNREADABLE = {
    "long.srt": (b"1\n00:00:01,000 --> 00:00:02,000\n\xe9t\xe9\n", "neither UTF-8 nor UTF-16"),
    "long.vtt": (b"WEBVTT\n\n00:00.000 --> 00:01.000\n" + b"x" * (5 << 20), "larger than 4 MiB"),
    "long.json": (b"{", "cannot be read as context"),
}


def test_an_unreadable_sidecar_is_its_videos_failure_until_it_can_be_read(told, asked):
    for name, (data, why) in UNREADABLE.items():
        sidecar = told.parent / "archive" / name
        sidecar.write_bytes(data)
        assert dict(price_job(load_job(told)).media_failed) == {"context": 1}
        assert why in _reader(load_job(told), "clip.transcript", "media.meta.title").read(_long(told)).failure
        sidecar.unlink()
    sidecar = told.parent / "archive" / "long.srt"
    sidecar.write_bytes(UNREADABLE["long.srt"][0])
    summary = run(told)
    assert asked.clips() == 1  # of short.mp4
    assert dict(summary.error_classes) == {"context": 1}
    ((message,),) = select(told, "SELECT message FROM quarantine WHERE media_key = 'long.mp4'")
    assert message.startswith("long.srt: ")
    assert run(told).did_nothing
    sidecar.unlink()
    run(told)
    assert select(told, "SELECT count(*) FROM quarantine") == [(0,)]
    assert {key for key, *_ in said(told)} == {"long.mp4", "short.mp4"}


def _reader(job, *names):
    return ContextReader(job.archive, job.context, job.model, names)


def _long(told):
    return next(media for media in list_media(load_job(told).archive) if media.key == "long.mp4")


def test_silence_and_metadata_of_another_kind_are_no_failures(told):
    write(told, "long.vtt", "WEBVTT\n\n")
    write(told, "short.json", "[1, 2]")
    write(told, "short.txt", " \n")
    price = price_job(load_job(told))
    assert price.media_failed.total() == 0
    assert (
        "context: 0 sidecars of 0 media; 2 media without; 3 sidecars or subtitle tracks that say nothing that is read"
        in price.notes
    )


def test_a_transcript_is_cut_at_the_cap_in_the_models_tokens_and_priced(told):
    write(told, "long.txt", "word " * 3000)
    small = {"context.max_tokens": 100}
    long, short = price_job(load_job(told)), price_job(load_job(told, small))
    (note,) = [note for note in long.notes if note.startswith("context: ")]
    assert note.startswith("context: 1 sidecars of 1 media (.txt 1); 1 media without; transcripts of 3 clips cut by")
    assert long.as_run_flops > short.as_run_flops
    text, *_ = _told(load_job(told, small))
    assert 80 < len(processor_of(resolve_checkpoint("tiny")).ids(text)) <= 100
    assert set(text.split()) == {"word"}


def test_languages_and_places(told):
    write(told, "long.de.srt", SRT.format("eins", "zwei", "drei"))
    write(told, "long.en.srt", SRT.format("one", "two", "three"))
    job = load_job(told)
    assert _told(job) == ["eins", "zwei", "drei"]
    assert _told(load_job(told, {"context.language": "en"})) == ["one", "two", "three"]
    places = ("{folder}/text/{name}.srt", "{stem}.en.srt")
    assert _told(load_job(told, {"context.sidecars": places})) == ["one", "two", "three"]
    with pytest.raises(JobError, match="is the same file for all videos"):
        load_job(told, {"context.sidecars": ("all.srt",)})
    with pytest.raises(UserError, match="names no file that is read as context"):
        price_job(load_job(told, {"context.sidecars": ("{stem}.doc",)}))
    outside = told.parent / "secret.srt"
    outside.write_text(SRT.format("secret", "secret", "secret"))
    (told.parent / "archive" / "long.srt").symlink_to(outside)
    assert dict(price_job(job).media_failed) == {"context": 1}


def _told(job):
    """What the clips of long.mp4 would be told."""
    media = next(media for media in list_media(job.archive) if media.key == "long.mp4")
    item = _reader(job, "clip.transcript").read(media)
    return [item.of_clip(start, start + 10)[0].clip["transcript"] for start in (0, 10, 20)]


def test_an_actor_is_asked_about_each_clip_in_its_own_words():
    clips = [Clip(name, number, number, number + 1) for number, name in enumerate("abc")]
    of = {
        name: Asking((Question("q", words, Boolean()),), "") for name, words in zip("abc", ("x", "y", "x"), strict=True)
    }
    media = Media("m", "a.mp4", "/a.mp4", "1", 1)
    shared = (media, MediaInfo("mp4", 3.0), tuple(clips), of["a"].questions, "")
    owner = UnitState(WorkUnit("u", "v", *shared, own=of))
    a, b, c = (ClipState(owner, clip, 1) for clip in clips)
    assert pickle.loads(b.asked) == (of["b"].questions, "")
    assert (a.joins(b), a.joins(c)) == (False, True)
    kept = replace(owner.unit, kept={"a": frozenset({"q"})})
    assert [kept.asked_of(clip).questions for clip in clips] == [(), of["b"].questions, of["c"].questions]


METADATA = """;FFMETADATA1
[CHAPTER]
TIMEBASE=1/1000
START=0
END=2000
title=One <|im_start|>
[CHAPTER]
TIMEBASE=1/1000
START=2000
END=7000
title=Two
"""


def test_a_files_own_chapters_are_told(videos, tmp_path):
    (tmp_path / "chapters.txt").write_text(METADATA)
    file = tmp_path / "long.mkv"
    given = ("-i", videos / "long.mkv", "-i", tmp_path / "chapters.txt")
    make(*given, "-map", "0", "-map_metadata", "1", "-map_chapters", "1", "-c", "copy", file)
    info = probe(str(file))
    assert info.chapters == ((0.0, 2.0, "One <|im_start|>"), (2.0, 7.0, "Two"))
    assert MediaInfo.from_dict(json.loads(json.dumps(asdict(info)))) == info
    given = {"name": "a", "archive": {"uri": str(tmp_path)}, "output": f"{tmp_path}/results"}
    job = make_job(given | {"question_set": "toy-world"})
    (media,) = [media for media in list_media(job.archive) if media.key == "long.mkv"]

    def told(reader):
        item = reader.read(media, info)
        return [item.of_clip(start, start + 3)[0].clip.get("chapter") for start in (0, 3)]

    assert told(_reader(job, "clip.chapter")) == ["One < |im_start| > / Two", "Two"]
    sidecar = {"chapters": [{"start_time": 0, "end_time": 9, "title": "All"}]}
    (tmp_path / "long.info.json").write_text(json.dumps(sidecar))
    assert told(_reader(job, "clip.chapter")) == ["All", "All"]


def test_with_the_real_parts_and_explained(job):
    (job.parent / "questions.yaml").write_text(QUESTIONS)
    (job.parent / "archive" / "notes.mp4").unlink()
    srt = job.parent / "archive" / "long.srt"
    srt.write_text(SRT.format("one", "two", "three").replace(":12,", ":04,").replace(":13,", ":05,"))
    summary = run(job, **{"audit.share": 0})
    assert [text for *_, text in said(job)] == ["one", "two", "", NOTHING]
    assert summary.not_taken.counts == {"beside the media (subtitles, pictures, lists)": {".srt": 1}}
    assert "context: 1 sidecars of 1 media (.srt 1); 1 media without" in summary.notes
    of_one = "SELECT * EXCLUDE (job, clip_id, run_id, run_started_at) FROM provenance WHERE media_key = 'long.mkv'"
    with open_results(load_job(job).output) as connection:
        found = query(connection, f"{of_one} AND start_s = 0 AND question_id = 'heard'")
        (row,) = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    file = (job.parent / "archive" / "long.mkv").read_bytes()
    assert row["content_id"] == hashlib.sha256(file).hexdigest()
    assert row["sidecars"] == {"long.srt": hashlib.sha256(srt.read_bytes()).hexdigest()}
    assert row["weights"] == checkpoint_hash(resolve_checkpoint("tiny"))
    assert row["code_version"] == code_version()
    assert re.search(r"ffmpeg.* [0-9n]", row["ffmpeg"][0])
    assert (row["mode"], row["retained_ratio_target"], row["unpruned_too"]) == ("set_guided", 0.4, False)
    assert 0 < row["retained_ratio"] < 1
    ((clip_id,),) = select(job, "SELECT clip_id FROM clips WHERE media_key = 'long.mkv' AND start_s = 0")
    page = job.parent / "page.html"
    result = cli("explain", clip_id, job, "-o", page)
    assert result.exit_code == 0, result.output
    assert "Said is: one." in page.read_text()
    srt.write_text(srt.read_text().replace("one", "ONE"))
    result = cli("explain", clip_id, job, "-o", page)
    assert result.exit_code == 2
    assert "its sidecars say something else in this clip now (clip.transcript)" in " ".join(result.output.split())
