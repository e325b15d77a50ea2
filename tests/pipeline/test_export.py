"""Moments out: timecodes, formats opened again by what they are for, and names and texts that try to break them."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import opentimelineio as otio
import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.chapters import chapters
from pipeline.export.files import documents, with_clocks
from pipeline.export.moments import Moment, Selection, Video, line, videos_with_moments
from pipeline.export.registry import FORMATS, find_format
from pipeline.export.timing import TimingError, clock_of
from pipeline.tables.query import open_results, the_job
from tests.support.media_files import clip_file, make
from tests.support.published_tables import publish
from tests.support.small_jobs import cli
from workers.media.probing import probe

HOSTILE = "--> 1\n\n2\n[CHAPTER]\nSTART=0;#=\\ <b>{\\an8}|D:9 * LOC: =cmd()"
MOMENTS = (
    Moment(2.0, 62.0, "heard", "Is a tone heard?", "yes", 0.91, 2),
    Moment(30.0, 90.0, "shape", "Which shape?", "circle", 0.8),
)
VIDEO = Video("news/a.mp4", "/archive/news/a.mp4", 120.0, 29.97, MOMENTS, "00:59:59;28", "tiny")


def written(name, *videos, **clock):
    videos, problems = with_clocks(find_format(name), videos, **clock)
    assert problems == []
    return [content for _, content in documents(find_format(name), videos)]


# Time


@pytest.mark.parametrize(
    ("rate", "start", "seconds", "timecode"),
    [
        (25, None, 3600.0, "01:00:00:00"),
        (24000 / 1001, None, 60.06, "00:01:00:00"),  # 24 frames are 1.001 s: no frame is ever dropped at 23.976
        (29.97, "00:00:00;00", 60.06, "00:01:00;02"),  # ;00 and ;01 are left out at each minute...
        (29.97, "00:00:00;00", 599.9, "00:09:59;27"),
        (29.97, "00:00:00;00", 600.0, "00:10:00;00"),  # ...but not at each tenth
        (29.97, "00:00:00:00", 60.06, "00:01:00:00"),
        (29.97, "01:00:00;00", 3600.0, "02:00:00;00"),
        (59.94, "10:00:00;00", 60.06, "10:01:00;04"),
        (30, "23:59:59:29", 1 / 30, "00:00:00:00"),
        (50, "01:00:00:00", 0.02, "01:00:00:01"),
        (10, None, 1.05, "00:00:01:01"),
    ],
)
def test_known_timecodes(rate, start, seconds, timecode):
    clock = clock_of(rate, start)
    assert clock.timecode(clock.frame(seconds)) == timecode


@given(st.sampled_from([23.976, 24, 25, 29.97, 30, 50, 59.94, 60]), st.integers(0, 10_000_000))
def test_the_time_of_a_frame_is_that_frame(rate, frame):
    clock = clock_of(rate)
    assert clock.frame(round(float(frame / clock.rate), 6)) == frame


def test_rates_are_exact_fractions():
    assert clock_of(29.97).rate == clock_of(30000 / 1001).rate == Fraction(30000, 1001)
    assert clock_of(29.9995).rate == 30
    assert clock_of(23.98).rate == Fraction(24000, 1001)


@pytest.mark.parametrize(
    ("rate", "start", "message"),
    [
        (None, None, "it has no frame rate"),
        (14.93, None, "14.93 frames per second on average"),
        (25, "01:00:00;00", "drop-frame needs 29.97, 59.94 or 119.88 frames"),
        (25, "01:00:00:25", "frames go from 00 to 24"),
        (29.97, "00:01:00;01", "drop-frame skips this number"),
        (25, "an hour", "write hours:minutes:seconds:frames"),
    ],
)
def test_clocks_that_cannot_be(rate, start, message):
    with pytest.raises(TimingError, match=message):
        clock_of(rate, start)


def test_the_start_timecode_and_rate_are_the_files_own(tmp_path):
    file = clip_file(tmp_path / "cut.mp4", 1, size="64x48", rate=30000 / 1001)
    make("-i", file, "-c", "copy", "-timecode", "00:59:59;28", tmp_path / "a.mov")
    info = probe(tmp_path / "a.mov")
    clock = clock_of(info.frame_rate, dict(info.tags)["timecode"])
    assert (clock.rate, clock.start, clock.timecode(3)) == (Fraction(30000, 1001), "00:59:59;28", "01:00:00;01")


# Formats


@pytest.mark.parametrize("name", ["vtt", "srt"])
def test_subtitles_are_read_by_pysubs2_and_ffmpeg(name, tmp_path):
    file = tmp_path / f"a.{name}"
    file.write_bytes(written(name, replace(VIDEO, moments=(*MOMENTS, Moment(95, 96, "q", "", HOSTILE))))[0])
    cues = pysubs2.load(str(file), format_=name)
    assert [(c.start, c.end) for c in cues] == [(2000, 62000), (30000, 90000), (95000, 96000)]
    assert [c.text for c in cues][:2] == ["heard: yes", "shape: circle"]
    with av.open(str(file)) as container:
        assert [p.pts for p in container.demux() if p.size] == [2000, 30000, 95000]
    assert written(name, replace(VIDEO, moments=())) == [b"WEBVTT\n\n" if name == "vtt" else b""]


def test_chapters_go_into_a_video_and_do_not_overlap(tmp_path):
    video = clip_file(tmp_path / "a.mp4", 4, size="64x48", rate=10)
    moments = (Moment(0, 2, "a", "", HOSTILE), Moment(1, 3, "b", "", "x"), Moment(3.5, 4, "c", "", "y"))
    (tmp_path / "a.ffmeta").write_bytes(written("chapters", replace(VIDEO, moments=moments))[0])
    make("-i", video, "-i", tmp_path / "a.ffmeta", "-map", 0, "-map_chapters", 1, "-c", "copy", tmp_path / "b.mkv")
    with av.open(str(tmp_path / "b.mkv")) as container:
        read = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]["title"])
                for c in container.chapters()]  # fmt: skip
    assert [(float(start), float(end), title) for start, end, title in read] == [
        (start / 1000, end / 1000, title) for start, end, title in chapters(moments)
    ]
    assert [float(start) for start, *_ in read] == [0, 1, 2, 3.5]


def test_otio_opens_the_timeline_with_its_markers():
    timeline = otio.adapters.read_from_string(written("otio", VIDEO)[0].decode(), "otio_json")
    (clip,) = timeline.find_clips()
    assert clip.media_reference.target_url == "file:///archive/news/a.mp4"
    assert timeline.global_start_time.to_timecode(30000 / 1001, True) == "00:59:59;28"
    first, second = clip.markers
    assert (first.name, first.comment) == ("heard: yes", "Is a tone heard? (91 %)")
    assert first.marked_range.start_time.to_timecode(30000 / 1001, True) == "01:00:01;28"
    assert first.marked_range.duration.value == 1798  # 2 s are 59.94 frames, 62 s are 1858.14
    assert second.metadata["omnidrop"]["answer"] == "circle"


def test_locators_are_read_by_otios_edl_adapter():
    assert "* LOC: 01:00:01;28 BLUE    heard: yes\r\n" in written("edl-loc", VIDEO)[0].decode()
    # The adapter passes over locators in drop-frame.
    edl = written("edl-loc", replace(VIDEO, start_timecode="01:00:00:00"))[0].decode()
    timeline = otio.adapters.read_from_string(edl, "cmx_3600", rate=30000 / 1001)
    (clip,) = timeline.find_clips()
    assert [(m.name, m.color) for m in clip.markers] == [("heard: yes", "BLUE"), ("shape: circle", "CYAN")]
    starts = [m.marked_range.start_time.to_timecode(30000 / 1001, False) for m in clip.markers]
    assert starts == ["01:00:02:00", "01:00:29:29"]


def test_resolves_markers_are_events_with_name_colour_and_length():
    edl = written("edl", VIDEO)[0].decode()
    assert "FCM: DROP FRAME\r\n" in edl
    assert (
        "001  001      V     C        01:00:01;28 01:00:01;29 01:00:01;28 01:00:01;29  \r\n"
        " heard - Is a tone heard? (91 %) |C:ResolveColorBlue |M:heard: yes |D:1798\r\n"
    ) in edl
    clips = list(otio.adapters.read_from_string(edl, "cmx_3600", rate=30000 / 1001).find_clips())
    assert [clip.source_range.start_time.to_timecode(30000 / 1001, True) for clip in clips] == [
        "01:00:01;28",
        "01:00:29;27",
    ]
    evil = replace(VIDEO, moments=(Moment(0, 1, f"1\r\n{HOSTILE}", HOSTILE, HOSTILE),))
    hostile = written("edl", evil)[0].decode().splitlines()
    assert len(hostile) == 6
    assert hostile[4].count("|") == 3


def test_markers_as_csv_are_no_formulas():
    evil = replace(VIDEO, key="=cmd|' /C calc'!A0", moments=(Moment(1, 2, "q", "@SUM(A1)", "-1+1"),))
    rows = list(csv.DictReader(io.StringIO(written("csv-markers", VIDEO, evil)[0].decode(), newline="")))
    assert [rows[0][name] for name in ("in", "out", "duration_frames")] == ["01:00:01;28", "01:01:01;28", "1798"]
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "@", "-", "+"))]


def test_label_studio_gets_tasks_with_frames_counted_from_one():
    (task,) = json.loads(written("label-studio", replace(VIDEO, frame_rate=25, start_timecode=None))[0])
    assert task["data"] == {"video": VIDEO.uri, "media_key": VIDEO.key, "fps": 25.0, "duration_s": 120.0}
    (prediction,) = task["predictions"]
    assert prediction["result"][0]["value"] == {
        "ranges": [{"start": 51, "end": 1550}],
        "timelinelabels": ["heard: yes"],
    }


def test_editors_get_no_frames_of_a_rate_they_do_not_have():
    slow = replace(VIDEO, frame_rate=10, start_timecode=None)
    videos, (problem,) = with_clocks(find_format("edl"), [slow, replace(VIDEO, key="b.mp4")])
    assert [video.key for video in videos] == ["b.mp4"]
    assert "news/a.mp4: it has 10 frames per second" in problem
    assert problem.endswith("for example --rate 25")
    assert b"00:00:02:00" in written("edl", slow, rate=25.0)[0]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
def test_names_made_from_keys_stay_in_their_folder_and_apart(tmp_path_factory, keys):
    folder = tmp_path_factory.getbasetemp().resolve()
    names = [name for name, _ in documents(find_format("vtt"), [replace(VIDEO, key=key) for key in keys])]
    assert len({name.casefold() for name in names}) == len(keys)
    assert all((folder / name).resolve().is_relative_to(folder) and "\0" not in name for name in names)


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "..\\..\\x.mp4", "..", "a/../../b.mp4"])
def test_keys_that_climb_do_not(key, tmp_path):
    ((name, _),) = documents(find_format("srt"), [replace(VIDEO, key=key)])
    assert (tmp_path / name).resolve().is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["a.mp3", "b.mp4", "z/a.wav", "z/a.mkv"], ["a.ffmeta", "b.ffmeta", "z/a.wav.ffmeta", "z/a.mkv.ffmeta"]),
        (["z/a.wav", "z/a.mkv"], ["z/a.wav.ffmeta", "z/a.mkv.ffmeta"]),  # as among others
        (["a.mp3", "a.wav", "a.mp3.mp4"], ["a.mp3.bdae23ef302e5ea8.ffmeta", "a.wav.ffmeta", "a.mp3.mp4.ffmeta"]),
        (["x\\.mov"], ["x_.ffmeta"]),
        (["映" * 83 + ".mp4"], ["映" * 65 + ".ffmeta"]),  # 255 bytes are the most
    ],
)
def test_the_file_of_a_video_is_called_after_it_alone(keys, names):
    assert [name for name, _ in documents(find_format("chapters"), [replace(VIDEO, key=key) for key in keys])] == names


WHOLE = (Moment(0.0, 120.0, "topic", "Which topic?", "a; b", 0.8), Moment(0.0, 120.0, "odd", "", HOSTILE))


def test_answers_about_the_whole_video_stand_where_a_format_has_a_place(tmp_path):
    video = replace(VIDEO, whole=WHOLE)
    rows = list(csv.DictReader(io.StringIO(written("csv-markers", video)[0].decode(), newline="")))
    assert [(row["scope"], row["question_id"], row["end_s"]) for row in rows][1:3] == [
        ("clip", "shape", "90.000000"),
        ("video", "topic", "120.000000"),
    ]
    (task,) = json.loads(written("label-studio", video)[0])
    assert task["data"]["whole_topic"] == "a; b"
    assert len(task["predictions"][0]["result"]) == 2
    (clip,) = otio.adapters.read_from_string(written("otio", video)[0].decode(), "otio_json").find_clips()
    assert clip.metadata["omnidrop"]["whole"][0]["answer"] == "a; b"
    (tmp_path / "a.ffmeta").write_bytes(written("chapters", video)[0])
    with av.open(str(tmp_path / "a.ffmeta")) as container:
        assert container.metadata["comment"] == line(f"topic: a; b · odd: {HOSTILE}", 10_000)
        assert len(list(container.chapters())) == 3
    notes, shown = written("vtt", video)[0], written("vtt", VIDEO)[0]
    assert b"NOTE topic: a; b\n\nNOTE odd: --&gt; 1" in notes
    assert [(c.start, c.text) for c in pysubs2.SSAFile.from_string(notes.decode(), format_="vtt")] == [
        (c.start, c.text) for c in pysubs2.SSAFile.from_string(shown.decode(), format_="vtt")
    ]
    (tmp_path / "a.vtt").write_bytes(notes)
    with av.open(str(tmp_path / "a.vtt")) as container:
        assert [bytes(packet) for packet in container.demux() if packet.size] == [b"heard: yes", b"shape: circle"]
    edl = written("edl-loc", replace(video, start_timecode="01:00:00:00"))[0].decode()
    (clip,) = otio.adapters.read_from_string(edl, "cmx_3600", rate=30000 / 1001).find_clips()
    assert clip.metadata["cmx_3600"]["comments"][0] == "COMMENT: topic: a; b"
    assert len(clip.markers) == 2
    for name in ("srt", "edl"):
        assert written(name, video) == written(name, VIDEO)


# From results


def test_moments_are_the_ranges_of_answers_above_a_threshold(demo, caplog):
    with open_results(str(demo / "results")) as connection:
        one = connection.execute(
            "SELECT media_key, question_id, answer, median(probability) FROM answers WHERE answer_type = 'choice' "
            "GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 1"
        ).fetchone()
        key, question, answer, threshold = one
        job = the_job(connection, "results", None)
        selection = Selection(threshold, questions=(question,), answers=(answer,), media=key)
        (video,) = videos_with_moments(connection, selection, job)
        counted = connection.execute(
            "SELECT count(*) FROM answers WHERE (media_key, question_id, answer) = (?, ?, ?) AND probability >= ?", one
        ).fetchone()
        stricter = videos_with_moments(connection, replace(selection, threshold=1.0), job)
        assert caplog.messages == []
        assert videos_with_moments(connection, replace(selection, answers=("no such",)), job) == []
    (said,) = caplog.messages
    assert said.startswith("--answer no such: nothing was answered so; there are: ")
    assert answer in said
    assert sum(moment.clips for moment in video.moments) == counted[0]
    assert sum(len(v.moments) for v in stricter) <= len(video.moments)
    assert {(m.question_id, m.answer) for m in video.moments} == {(question, answer)}


def test_the_command_writes_a_file_a_video_or_one_for_all(demo, tmp_path):
    results = demo / "results"
    done = cli("export", results, "--to", "vtt", "-o", tmp_path / "vtt", "--json", tmp_path / "vtt.json")
    assert done.exit_code == 0, done.output
    said = json.loads((tmp_path / "vtt.json").read_text())
    assert len(said["files"]) == said["videos"] > 1
    read = sum(len(pysubs2.load(one["file"])) for one in said["files"])
    assert read == said["moments"]
    done = cli("export", results, "--to", "csv-markers", "--rate", "25", "-o", tmp_path / "m.csv")
    assert done.exit_code == 0, done.output
    assert len(list(csv.DictReader((tmp_path / "m.csv").open(newline="")))) == said["moments"]


def test_odd_files_are_named_and_left_out_and_others_written(tmp_path):
    span = (0.0, 2.0, {"heard": ("boolean", "yes", 0.9)})
    media = {"even.mp4": {"tags": [("timecode", "not a time")]}, "uneven.mp4": {"frame_rate": 14.93}}
    results = publish(tmp_path / "r", {"even.mp4": [span], "uneven.mp4": [span]}, media)
    done = cli("export", results, "--to", "edl", "-o", tmp_path / "markers")
    assert done.exit_code == 1
    assert "left out: 1 video\n  uneven.mp4: it has 14.93 frames per second on average" in done.stderr
    assert "1 file without a usable start timecode" in done.stderr
    assert [file.name for file in (tmp_path / "markers").iterdir()] == ["even.edl"]
    done = cli("export", results, "--to", "edl", "-o", tmp_path / "all", "--rate", "25")
    assert (done.exit_code, len(list((tmp_path / "all").iterdir()))) == (0, 2)


def test_the_command_says_what_has_no_place(tmp_path):
    span = (0.0, 2.0, {"heard": ("boolean", "yes", 0.9)})
    whole = {name: {"topic": ("choice", name[0], 0.6), "told": ("text", "x", None)} for name in ("a.mp4", "b.mp4")}
    results = publish(tmp_path / "r", {"a.mp4": [span], "b.mp4": []}, whole=whole)
    done = cli("export", results, "--to", "csv-markers", "-o", tmp_path / "m.csv")
    assert "1 moment and 2 answers about whole videos of 2 videos" in done.stderr
    rows = list(csv.DictReader((tmp_path / "m.csv").open(newline="")))
    assert [(row["file"], row["answer"]) for row in rows] == [("a.mp4", "yes"), ("a.mp4", "a"), ("b.mp4", "b")]
    done = cli("export", results, "--to", "srt", "-o", tmp_path / "srt", "--threshold", "0.5")
    assert "1 moment of 1 video" in done.stderr
    assert "2 answers about whole videos left out: srt has no place for them; export to vtt, chapters" in done.stderr
    done = cli("export", results, "--to", "srt", "-o", tmp_path / "none", "--question", "topic")
    assert (done.exit_code, (tmp_path / "none").exists()) == (2, False)
    assert "--question topic is about whole videos, and --to srt has no place for such answers; use" in done.stderr
    done = cli("export", results, "--to", "csv-markers", "--find", "topic = b", "-o", tmp_path / "f.csv")
    (row,) = csv.DictReader((tmp_path / "f.csv").open(newline=""))
    assert (row["file"], row["scope"], row["end_s"], row["answer"]) == ("b.mp4", "video", "600.000000", "topic: b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "vtt", "-o", "a.vtt"), "but a --to vtt file holds one video; give a folder, for example -o a/"),
        (("--to", "vvt"), "--to vvt: there is no such format; did you mean vtt? there are iceberg, vtt, srt"),
        (("--to", "vtt", "--question", "first_colr"), "no such question; did you mean first_colour?"),
        (("--to", "vtt", "--job", "x"), "they hold no job 'x'"),
        ((), "Iceberg tables need the job file"),
    ],
)
def test_mistakes_say_what_can_be_done(demo, arguments, message):
    done = cli("export", demo / "results", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_media_are_chosen_by_key_or_wildcards_in_either_normal_form(tmp_path):
    decomposed = unicodedata.normalize("NFD", "news/café [1].mp4")
    span = (0.0, 2.0, {"heard": ("boolean", "yes", 0.9)})
    results = publish(tmp_path / "r", {key: [span] for key in (decomposed, "news/b.mp4", "a*b.mp4", "axb.mp4")})
    found = {
        "news/*": 2,
        "news/caf? [[]1].mp4": 0,
        "news/caf? [1].mp4": 1,
        "news/café [1].mp4": 1,
        "*.mp4": 4,
        "a?b.mp4": 2,
        "a*b.mp4": 2,
        "b.mp4": 0,
    }
    for key, videos in found.items():
        done = cli("export", results, "--to", "csv-markers", "--media", key, "-o", tmp_path / "m.csv")
        if videos:
            assert (done.exit_code, f"of {videos} video" in done.stderr) == (0, True), key
        else:
            assert (done.exit_code, f"--media {key}: job test has no video" in done.stderr) == (2, True), key
    assert "the nearest is news/b.mp4. Give the whole key" in done.stderr
    for command in (("find", "heard = yes", results), ("review", results, "--no-open")):
        assert cli(*command, "--media", "none").exit_code == 2
    assert "did you mean yes?" in cli("export", results, "--to", "vtt", "--answer", "Yes").stderr
    assert "no such question" in cli("review", results, "--curve", "--question", "herd").stderr
    assert cli("review", results, "--curve", "--media", "a*b.mp4").exit_code == 2


def test_every_format_can_be_found_and_says_what_it_is():
    page = (Path(__file__).parents[2] / "docs" / "moments.md").read_text()
    for name in FORMATS:
        assert find_format(name).says
        assert f"`{name}`" in page
