"""Evaluation: what counts as right, how sure figures are, and every source of questions through the command."""

from __future__ import annotations

import csv
import json
import math
import shutil

import numpy as np
import pytest
import s3fs

from jobs._shared import evaluation_run
from jobs._shared.evaluation_options import Ways
from jobs._shared.evaluation_tables import short_names
from omnidrop.answers import Answer
from omnidrop.model import OmniModel, Request
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Choice, Number, Question, Text
from pipeline.archive.probing import source
from pipeline.config.job import load_job, make_job
from pipeline.evaluation import toy
from pipeline.evaluation.benchmark_text import answer_letter, names_in, options_of
from pipeline.evaluation.dataset import EvaluationError, Target
from pipeline.evaluation.intervals import clustered_error, difference, proportion, wilson
from pipeline.evaluation.labels import labelled_clips, seconds_of
from pipeline.evaluation.runner import RunSettings, sets_of
from pipeline.evaluation.scoring import letter_of, right_answers, score
from pipeline.toy_world import Event, Format, questions_of, render_clip
from tests.support.s3_server import s3_server
from tests.support.small_jobs import cli, select
from workers.media.decode import decode_one
from workers.model import answerer
from workers.records import Clip, DecodeSettings

COLOURS = ("red", "green", "blue")


def evaluate(tmp_path, *arguments):
    """The command's JSON; whatever else it says is shown where it fails."""
    result = cli("evaluate", *arguments, "--json", tmp_path / "result.json")
    assert result.exit_code == 0, result.output
    return json.loads((tmp_path / "result.json").read_text())


def refused(*arguments):
    result = cli("evaluate", *arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


# --- scoring ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        (" (C) ", "C"),
        ("B. a dog", "B"),
        ("B: because A is wrong", "B"),
        ("The answer is C.", "C"),
        ("Answer: **D**", "D"),
        ("The correct option is (B) a dog", "B"),
        ("a dog", "B"),
        ("A dog!", "B"),
        ("A dog and a cat", None),
        ("E", None),
        ("I cannot tell", None),
        ("The answer is A or the answer is B", None),
        ("", None),
    ],
)
def test_a_letter_is_read_where_it_is_meant_and_only_there(written, letter):
    assert letter_of(written, ("a cat", "a dog", "a bird", "a fish")) == letter


@pytest.mark.parametrize(
    ("answer_type", "value", "text", "right", "tolerance", "expected"),
    [
        (Choice(COLOURS), "red", "red", "red", 0, (True, None)),
        (Choice(COLOURS), "blue", "blue", "red", 0, (False, None)),
        (Boolean(), True, "yes", "yes", 0, (True, None)),
        (Boolean(), False, "no", "yes", 0, (False, None)),
        (Number(0, 10, 0.5), 3.5, "3.5", "4", 0.5, (True, None)),
        (Number(0, 10, 0.5), 3.5, "3.5", "4", 0.4, (False, None)),
        (Number(0, 10), 3.0, "3", "3.0", 0, (True, None)),
        (Text(), " The  Red Circle. ", " The  Red Circle. ", "the red circle", 0, (True, None)),
        (Text(), "a red circle", "a red circle", "the red circle", 0, (False, None)),
    ],
)
def test_answers_are_compared_by_their_type(answer_type, value, text, right, tolerance, expected):
    question, target = Question("q", "What?", answer_type), Target("q", (right,), "t", 0.5, tolerance)
    assert score(question, Answer("q", value, text), target) == expected


def test_what_cannot_be_read_is_wrong_and_said_to_be_unparsable():
    question, target = Question("q", "What?", Text()), Target("q", ("B",), "t", 0.5, options=("a cat", "a dog"))
    assert score(question, Answer("q", "no idea", "no idea"), target) == (False, "unparsable")
    broken = Answer("q", None, "{", error_class="json_invalid")
    assert score(question, broken, Target("q", ("x",), "t", 0.0)) == (False, "unparsable")


def test_labels_are_spelt_as_questions_spell_answers():
    assert right_answers(Question("q", "?", Boolean()), "TRUE") == ("yes",)
    assert right_answers(Question("q", "?", Choice(("Red", "blue"))), " red ") == ("Red",)
    assert right_answers(Question("q", "?", Text()), "a dog | the dog") == ("a dog", "the dog")
    for answer, cell in ((Boolean(), "maybe"), (Choice(COLOURS), "pink"), (Number(0, 3), "4"), (Number(0, 3), "two")):
        with pytest.raises(EvaluationError, match="must be"):
            right_answers(Question("q", "?", answer), cell)


@pytest.mark.parametrize(
    ("written", "seconds"), [("", None), ("0", 0.0), ("1.5", 1.5), ("2:30", 150.0), ("1:00:01.5", 3601.5)]
)
def test_times_of_tables(written, seconds):
    assert seconds_of(written) == seconds


@pytest.mark.parametrize("written", ["soon", "-1", "1:75", "1:2:3:4", "nan"])
def test_times_that_are_none_are_refused(written):
    with pytest.raises(EvaluationError, match="seconds or hh:mm:ss"):
        seconds_of(written)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_the_clustered_error_is_the_textbook_one():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), rng.integers(1, 6, 30))
    values = (rng.random(len(clusters)) < 0.7).astype(float)
    residual = values - values.mean()
    totals = np.array([residual[clusters == c].sum() for c in range(30)])
    expected = math.sqrt(30 / 29 * (totals**2).sum()) / len(values)
    assert clustered_error(list(values), list(clusters)) == pytest.approx(expected, rel=1e-12)


def test_questions_that_always_agree_within_a_clip_count_once():
    """Eight copies of one answer a clip carry the information of one: the error must not shrink with the copies."""
    one = [bool(x) for x in np.random.default_rng(1).random(40) < 0.6]
    clips = list(range(40))
    alone = proportion(one, clips)
    copied = proportion([x for x in one for _ in range(8)], [c for c in clips for _ in range(8)])
    assert copied.standard_error == pytest.approx(alone.standard_error)
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))


def test_all_right_is_no_certainty_and_one_clip_none_at_all():
    perfect = proportion([True] * 20, [n // 4 for n in range(20)])
    assert (perfect.low, perfect.high) == pytest.approx(wilson(1.0, 5))
    assert perfect.low < 0.6
    assert proportion([True, False], ["a", "a"]).standard_error is None
    assert difference([1.0, 0.0], ["a", "a"]).low == -1.0


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(2), 0
    for _ in range(400):
        by_clip = rng.beta(4, 1, 40)
        values = (rng.random((40, 8)) < by_clip[:, None]).ravel()
        mean = proportion([bool(v) for v in values], list(np.repeat(np.arange(40), 8)))
        hits += mean.low <= 0.8 <= mean.high
    assert 0.91 <= hits / 400 <= 0.985


# --- running ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "expected"), [(None, [5]), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_questions_are_split_in_order(size, expected):
    questions = [Question(str(n), "What?", Boolean()) for n in range(5)]
    sets = sets_of(questions, size)
    assert [len(one) for one in sets] == expected
    assert [question for one in sets for question in one] == questions


def test_long_clips_get_fewer_frames_a_second():
    settings = RunSettings(DecodeSettings(fps=2), max_frames=128)
    assert settings.decode_settings(64).fps == 2
    assert settings.decode_settings(640).fps == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["set_guided omnidrop 30 %"], ["set_guided omnidrop 30%"]),
        (["dense_shared", "set_guided omnidrop 30 %", "set_guided omnidrop 20 %"], ["dense_shared", "30%", "20%"]),
        (["set_guided omnidrop 20 %", "set_guided random 20 %"], ["omnidrop", "random"]),
        (["set_guided omnidrop 20 %", "set_guided omnidrop mean 20 %"], ["plain", "mean"]),
        (["dense"], ["dense"]),
    ],
)
def test_tables_name_what_differs(names, short):
    assert short_names(names) == short


# --- toy worlds ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    return tmp_path_factory.mktemp("rendered")


def test_a_toy_world_on_real_files_several_ways_on_the_same_files(tmp_path, media):
    common = ("toy-world", "--world", "v1", "--clips", 2, "--seed", 3, "--questions", 6, "--media", media)
    first = evaluate(tmp_path, *common, "--retained", "0.4,0.2", "--dense", "--details", tmp_path / "details.jsonl")
    files = {path: path.stat().st_mtime_ns for path in media.rglob("*.*")}
    assert len(files) == 2
    assert first["count"] == 12
    assert first["clips"] == 2
    assert first["answered"] == 12
    assert sum(task["count"] for task in first["tasks"].values()) == 12
    right = sum(task["accuracy"] * task["count"] for task in first["tasks"].values())
    assert first["accuracy"] == pytest.approx(right / 12)
    assert 0 < first["guess"] < 1
    dense, forty, twenty = first["arms"]
    assert [arm["mode"] for arm in first["arms"]] == ["dense_shared", "set_guided", "set_guided"]
    assert dense["retained_ratio"] == 1
    assert forty["retained_ratio"] == pytest.approx(0.4, abs=0.01)
    assert twenty["retained_ratio"] == pytest.approx(0.2, abs=0.01)
    assert first["accuracy"] == forty["accuracy"]
    assert twenty["saved_against_dense_shared"] > forty["saved_against_dense_shared"] > 0.2
    assert forty["against_dense"]["difference"] == pytest.approx(forty["accuracy"] - dense["accuracy"])

    # Every answer belongs to the clip and question it stands beside: asked again one by one, without the command.
    kept = [json.loads(line) for line in (tmp_path / "details.jsonl").read_text().splitlines()]
    kept = {one["clip_id"]: one for one in kept if one["arm"] == twenty["name"]}
    model = OmniModel.load("tiny")
    for clip in reversed(toy.toy_clips("v1", 2, 3, folder=media, questions=6)):
        span = Clip("", 0, clip.start_s, clip.end_s)
        decoded = decode_one(clip.media, clip.info, span, DecodeSettings())
        got = model.answer(
            decoded.frames, decoded.audio, Request(clip.questions, fps=2.0, pruning=Pruning(retained_ratio=0.2))
        )
        right = [answer.text == target.right[0] for answer, target in zip(got.answers, clip.targets, strict=True)]
        scored = kept[clip.clip_id]["scored"]
        assert [one["answer"] for one in scored] == [answer.text for answer in got.answers]
        assert [one["is_right"] for one in scored] == right

    again = evaluate(tmp_path, *common, "--retained", "0.4,0.2", "--dense", "--details", tmp_path / "details.jsonl")
    assert again == first  # measured seconds too: nothing was asked again
    ways = ("--mode", "dense_shared,per_question,set_guided", "--policy", "random", "--retained", 0.4)
    other = evaluate(tmp_path, *common, *ways, "--questions-per-set", 3)
    assert [arm["mode"] for arm in other["arms"]] == ["dense_shared", "per_question", "set_guided"]
    assert {path: path.stat().st_mtime_ns for path in media.rglob("*.*")} == files
    assert other["count"] == 12
    assert other["policy"] == "random"
    # A policy that does not look at the questions keeps the same tokens whoever asks.
    assert other["arms"][1]["tasks"] == other["arms"][2]["tasks"]


def test_words_of_voices_never_heard_are_understood_on_real_files(tmp_path):
    """World v3: what the truth says is what a model hears in the files, and audio pruned away is missed."""
    clips = ("--world", "v3", "--clips", 2, "--seed", 3, "--questions", 12, "--media", tmp_path / "media")
    found = evaluate(tmp_path, "toy-world", *clips, "--policy", "random", "--retained", 0.1, "--dense")
    dense, pruned = found["arms"]
    assert found["count"] == 24
    assert dense["accuracy"] > 0.75
    assert pruned["accuracy"] < dense["accuracy"]
    assert {"temporal order", "presence", "audio recognition", "audio-visual matching"} <= set(dense["tasks"])


def test_a_torn_line_costs_one_clip_and_a_foreign_file_is_refused(tmp_path, media):
    common = ("toy-world", "--clips", 2, "--seed", 3, "--questions", 2, "--media", media)
    common = (*common, "--mode", "dense_shared", "--details")
    details = tmp_path / "details.jsonl"
    evaluate(tmp_path, *common, details)
    whole = details.read_bytes()
    details.write_bytes(whole[:-40])
    again = evaluate(tmp_path, *common, details)
    lines = [json.loads(line) for line in details.read_bytes().splitlines() if line.endswith(b"}") and line[:1] == b"{"]
    assert again["answered"] == 4
    assert len({line["key"] for line in lines}) == 2
    (tmp_path / "notes.txt").write_text("milk, bread\n")
    assert "no result of an evaluation" in refused(*common, tmp_path / "notes.txt")


def test_settings_of_policies_are_read_as_meant(tmp_path, media):
    common = ("toy-world", "--clips", 1, "--seed", 3, "--questions", 2, "--media", media, "--retained", 0.5)
    found = evaluate(tmp_path, *common, "--setting", "diversity=off", "--setting", "at_input=false")
    assert "at_input=False diversity=off" in found["name"]
    assert found["retained_ratio"] == pytest.approx(0.5, abs=0.02)


def test_a_ratio_below_the_floor_is_left_out_of_a_table_and_refused_alone(tmp_path, media):
    common = ("toy-world", "--clips", 1, "--seed", 3, "--questions", 2, "--media", media)
    found = evaluate(tmp_path, *common, "--retained", "0.3,0.001")
    assert [arm["asked_ratio"] for arm in found["arms"]] == [0.3]
    assert "floor" in next(iter(found["refused"].values()))
    assert "floor" in refused(*common, "--retained", "0.001", "--dense")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("toy-word",), "did you mean toy-world?"),
        (("worldsense",), "allowed: toy-world, labels, truth, benchmark"),
        (("toy-world", "--world", "v4"), "'v4'"),
        (("toy-world", "--clips", "-1"), "--clips must be"),
        (("toy-world", "--retained", "2"), "at most 1, got 2"),
        (("toy-world", "--retained", "0.3,0.3"), "a ratio is given twice in 0.3, 0.3"),
        (("toy-world", "--mode", "dense", "--retained", "0.3"), "prunes nothing"),
        (("toy-world", "--policy", "best"), "unknown policy 'best'"),
        (("toy-world", "--policy", "omnidrop,"), "different names"),
        (("toy-world", "--setting", "diversity"), "NAME=VALUE"),
        (("toy-world", "--setting", "colour=red"), "no setting 'colour'"),
        (("toy-world", "--labels", "x.csv"), "No such option: --labels"),
        (("truth", "--archive", "x"), "Missing option '--truth'"),
        (("labels", "--labels", "x.csv", "--job", "none.yaml"), "job file none.yaml does not exist"),
        (("benchmark", "worldsense"), "Missing option '--root'"),
        (("benchmark", "best", "--root", "x"), "no benchmark 'best'; allowed: worldsense, daily-omni"),
    ],
)
def test_mistakes_are_named(arguments, words):
    assert words in refused(*arguments)


# --- toy clips of somebody else --------------------------------------------------------------------------------------

RED_THEN_BLUE = (
    Event(0.5, 3.5, "circle", "red", "noise"),
    Event(4.0, 7.5, "square", "blue", "clicks"),
)


@pytest.fixture(scope="session")
def foreign(tmp_path_factory):
    """An archive with a clip, a long clip in a container of another kind, a broken file and one not described."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "sub").mkdir()
    small = Format("mp4", "mpeg4", "aac", 96, 64, 5)
    render_clip(folder / "sub" / "first.mp4", seed=1, length_s=8, events=RED_THEN_BLUE, format=small)
    long = tuple(
        Event(10.0 * n + 1, 10.0 * n + 9, shape, colour, None)
        for n, (shape, colour) in enumerate(
            zip(["circle", "square", "cross", "triangle"] * 2, COLOURS * 3, strict=False)
        )
    )
    render_clip(
        folder / "long.avi", seed=2, length_s=50, events=long[:5], format=Format("avi", "mpeg4", None, 96, 64, 5)
    )
    (folder / "broken.mp4").write_text("no video")
    (folder / "more.mp4").write_text("not described")
    truth = {
        "first.mp4": [event.to_dict() for event in RED_THEN_BLUE],
        "long.avi": {"events": [event.to_dict() for event in long[:5]]},
        "broken.mp4": {"events": [RED_THEN_BLUE[0].to_dict()]},
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


def test_foreign_toy_clips_of_any_length_and_container(tmp_path, foreign):
    clips, notes = toy.archive_clips(foreign, foreign / "truth.json", questions=4)
    by_file = {}
    for clip in clips:
        by_file.setdefault(clip.media.key, []).append((clip.start_s, clip.end_s))
    assert by_file["sub/first.mp4"] == [(0.0, 8.0)]
    assert by_file["long.avi"][0][0] == 0
    assert by_file["long.avi"][-1][1] == pytest.approx(50, abs=0.2)
    assert len(by_file["long.avi"]) > 1
    assert any("not in" in note for note in notes)
    found = evaluate(
        tmp_path, "truth", "--archive", foreign, "--truth", foreign / "truth.json", "--questions", 4, "--retained", 0.3
    )
    assert found["failures"] == {"not_media": 4}
    assert found["answered"] == found["count"] - 4
    assert found["clips"] == len(clips)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"first.mp4": [{"start": 0, "shape": "circle"}]}, "'first.mp4', event 1"),
        ({"first.mp4": [{"start": 0, "end": 4, "shape": "star", "colour": "red"}]}, "shape must be one of"),
        ({"first.mp4": [{"start": 0, "end": 4, "shape": "circle", "colour": None, "sound": None}]}, "colour"),
        ({"first.mp4": [{"start": 0, "end": 40, "sound": "noise"}]}, "'first.mp4', event 1: 'end' is 40 s"),
        ({"first.mp4": [None]}, "event 1: an event must be an object"),
        ({"first.mp4": {"events": 3}}, "'first.mp4' needs a list 'events'"),
        ({"third.mp4": []}, "no file 'third.mp4'"),
        ({}, "describes no file"),
    ],
)
def test_bad_truths_are_named_by_file_and_field(tmp_path, foreign, entry, words):
    (tmp_path / "truth.json").write_text(json.dumps(entry))
    assert words in refused("truth", "--archive", foreign, "--truth", tmp_path / "truth.json")


def test_shape_and_sound_told_apart_are_one_event_and_tangled_ones_are_not_matched():
    shown, heard = Event(0, 4, "circle", "red", None), Event(0, 4, None, None, "noise")
    assert toy.joined([heard, shown]) == (Event(0, 4, "circle", "red", "noise"),)
    assert not toy.overlaps([Event(0, 4, sound="noise"), Event(4, 6, sound="clicks")])
    assert toy.overlaps([shown, Event(2, 6, sound="clicks")])
    texts = [one.question.text for one in questions_of(toy.joined([heard, shown]))]
    assert texts


def test_long_files_are_cut_between_events():
    events = [Event(7 * n, 7 * n + 6.5, sound="noise") for n in range(20)]
    cuts = [start for start, _ in toy.pieces(141.0, events)][1:]
    assert cuts
    assert not any(event.start < cut < event.end for cut in cuts for event in events)
    spans = toy.pieces(141.0, [Event(0, 141, sound="noise")])
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]
    assert max(end - start for start, end in spans) <= toy.LONGEST_S


# --- labels of one's own ---------------------------------------------------------------------------------------------

QUESTIONS = """\
name: labelled
version: 1
questions:
  - {id: shape, text: "Which shape is shown?", answer: {type: choice, options: [circle, square]}}
  - {id: heard, text: "Is a tone heard?", answer: {type: boolean}}
  - {id: count, text: "How many tones are heard?", answer: {type: number, minimum: 0, maximum: 6}}
  - {id: story, text: "What happens?", answer: {type: text, max_tokens: 4}}
  - {id: all, text: "Everything", answer: {type: json, schema: {type: object}, max_tokens: 4}}
"""


@pytest.fixture
def labelled(job, tmp_path):
    """The job of the tests with a question set of every type; returns a writer of tables."""
    (tmp_path / "questions.yaml").write_text(QUESTIONS)

    def write(*rows, delimiter=",", header=("file", "start", "end", "question", "answer")):
        with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, delimiter=delimiter).writerows([header, *rows])
        return tmp_path / "labels.csv"

    return write


def test_labels_give_a_table_of_ratios_against_no_pruning(tmp_path, labelled, job):
    # Without the json question: its schema allows anything, which a tiny model may go on with for long.
    (tmp_path / "questions.yaml").write_text("\n".join(QUESTIONS.splitlines()[:-1]))
    table = labelled(
        ("short.mp4", "0", "3", "heard", "yes"),
        ("short.mp4", "0", "3", "count", "3"),
        ("short.mp4", "0", "3", "story", "nothing|tones"),
        ("long.mkv", "0:03", "0:06", "shape", "Circle"),
        ("notes.mp4", "", "", "heard", "no"),
        delimiter=";",
    )
    found = evaluate(tmp_path, "labels", "--job", job, "--labels", table, "--retained", "0.5,0.3", "--tolerance", 6)
    dense, half, third = found["arms"]
    assert (dense["mode"], half["asked_ratio"], third["asked_ratio"]) == ("dense_shared", 0.5, 0.3)
    for arm in found["arms"]:
        assert arm["count"] == 5
        assert arm["failures"] == {"not_media": 1}
        assert arm["tasks"]["count"]["accuracy"] == 1  # any number is within 6 of 3
        assert arm["tasks"]["heard"]["count"] == 2
    assert half["retained_ratio"] == pytest.approx(0.5, abs=0.02)
    same = 4 * half["against_dense"]["agreement"]  # of the four that dense answered: a file that fails says nothing
    assert same == pytest.approx(round(same))
    # The whole set is asked, as in the job, though only one question of the second span is labelled.
    assert found["setting"]["job"] == "test"
    # What the ways before have encoded is not spared: alone a way costs as much.
    common = ("labels", "--job", job, "--labels", table, "--retained", "0.3", "--no-dense")
    assert evaluate(tmp_path, *common)["flops"] == third["flops"]


def test_every_bad_row_is_named_with_its_line(labelled, job):
    table = labelled(
        ("short.mp4", "0", "3", "heard", "perhaps"),
        ("short.mp4", "0", "3", "colour", "red"),
        ("gone.mp4", "0", "3", "heard", "yes"),
        ("talks/long.mkv", "0", "3", "heard", "yes"),
    )
    message = refused("labels", "--labels", table, "--job", job)
    assert "did you mean long.mkv?" in message
    assert "line 3: question 'colour' is not in" in message
    assert "line 4: file 'gone.mp4' is not in the archive" in message
    table = labelled(
        ("short.mp4", "0", "3", "heard", "perhaps"),
        ("short.mp4", "0", "30", "heard", "yes"),
        ("short.mp4", "0", "3", "shape", "circle"),
        ("short.mp4", "0", "3", "shape", "square"),
        ("short.mp4", "0", "3", "all", "{}"),
        ("long.mkv", "0", "3", "count", "9"),
    )
    message = refused("labels", "--labels", table, "--job", job)
    for words in (
        "line 2: question heard: the right answer must be yes or no",
        "line 3: 0 to 30 s is not within short.mp4",
        "line 5: question shape of this span was labelled before",
        "line 6: question all: a json answer cannot be scored",
        "line 7: question count: the right answer must be 0 to 6",
    ):
        assert words in message


def test_tables_that_are_none(tmp_path, labelled, job):
    assert "no column answer" in refused("labels", "--labels", labelled(header=("file", "question")), "--job", job)
    assert "no row below" in refused("labels", "--labels", labelled(), "--job", job)
    assert "No such file" in refused("labels", "--labels", tmp_path / "none.csv", "--job", job)
    assert "give --job" in refused("labels", "--labels", labelled())
    assert "before end" in refused(
        "labels", "--labels", labelled(("short.mp4", "3", "3", "heard", "yes")), "--job", job
    )


@pytest.mark.cluster
def test_a_jobs_model_is_loaded_alike_wherever_it_answers(tmp_path, labelled, job, monkeypatch):
    """A ratio is chosen by the accuracy of the job's own model, and the job is checked with it."""
    (tmp_path / "questions.yaml").write_text("\n".join(QUESTIONS.splitlines()[:4]))
    job.write_text(job.read_text().replace("{retained_ratio: 0.4}", "{retained_ratio: 0.4, still_levels: 3.5}"))
    loaded, run = [], []

    def seen(settings):
        loaded.append((settings.model, settings.dtype))
        model = OmniModel.load(settings.model, device=settings.device, dtype=settings.dtype)
        answer = model._answer_batch

        def answered(clips, request, ready):
            run.append(request.pruning.still_levels)
            return answer(clips, request, ready)

        monkeypatch.setattr(model, "_answer_batch", answered)
        return model

    monkeypatch.setattr(answerer, "load_model", seen)
    monkeypatch.setattr(evaluation_run, "load_model", seen)
    table = labelled(("short.mp4", "0", "3", "shape", "circle"))
    found = evaluate(tmp_path, "labels", "--job", job, "--labels", table, "--retained", "0.4", "--no-dense")
    (arm,) = found["arms"]
    assert "still 3.5" in arm["name"]
    for command in (("validate", job), ("index", job), ("calibrate", job)):
        result = cli(*command)
        assert result.exit_code == 0, result.output
    clip_id = select(job, "SELECT min(clip_id) FROM answers")[0][0]
    result = cli("explain", clip_id, job, "-o", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert loaded == [("tiny", "auto")] * 5
    # Unpruned runs beside them encode everything as it is.
    assert {levels for levels in run if levels} == {3.5}


def test_what_is_not_given_is_as_the_job_has_it():
    own = {"mode": "staged", "guidance": "mean", "encoder_share": 0.5, "settings": {"memory": 0.5}}
    given = {"name": "own", "archive": {"uri": "/videos"}, "output": "/results", "question_set": "toy-world"}
    job = make_job({**given, "pruning": own})

    def prunings(**options):
        return [arm.pruning for arm in Ways(**options).arms(job)]

    (by_mode,) = prunings(mode="set_guided")
    assert (by_mode.policy, by_mode.guidance) == ("omnidrop", "mean")
    assert (by_mode.encoder_share, by_mode.settings) == (0.5, (("memory", 0.5),))
    ours, random = prunings(policy="omnidrop,random")
    assert (ours.mode, ours.encoder_share, ours.settings) == ("staged", 0.5, (("memory", 0.5),))
    assert (random.mode, random.encoder_share, random.settings) == ("staged", 1.0, ())
    assert [one.mode for one in prunings(policy="none")] == ["dense_shared"]
    assert prunings(setting=["memory=0.7"], encoder_share=["1"]) == [Pruning("staged", "omnidrop", 0.3, "mean")]
    unread = [Pruning("staged", "omnidrop", 0.3, "mean", read_left_out=False)]
    assert prunings(setting=["memory=0.7"], encoder_share=["1"], read_left_out=False) == unread
    job = make_job({**given, "pruning": {"mode": "staged", "guidance": "mean", "read_left_out": False}})
    assert prunings() == unread != prunings(read_left_out=True)


def test_answers_of_another_kind_of_encoding_are_not_taken_from_a_log(tmp_path, labelled, job):
    (tmp_path / "questions.yaml").write_text("\n".join(QUESTIONS.splitlines()[:4]))
    table = labelled(("short.mp4", "0", "3", "shape", "circle"))
    common = ("labels", "--job", job, "--labels", table, "--retained", "0.4", "--no-dense")
    details = tmp_path / "details.jsonl"
    evaluate(tmp_path, *common, "--details", details)
    exact = job.read_text()
    job.write_text(exact.replace("{retained_ratio: 0.4}", "{retained_ratio: 0.4, still_levels: 255}"))
    evaluate(tmp_path, *common, "--details", details)
    job.write_text(exact)
    evaluate(tmp_path, *common, "--details", details)
    assert len({json.loads(line)["key"] for line in details.read_text().splitlines()}) == 2


def test_labels_of_a_bucket(labelled, job):
    table = labelled(("short.mp4", "1", "3", "heard", "yes"))
    with s3_server("media") as endpoint:
        s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True).put(
            str(job.parent / "archive"), "media/archive", recursive=True
        )
        remote = load_job(job, {"archive.uri": "s3://media/archive", "archive.endpoint_url": endpoint})
        (clip,) = labelled_clips(table, remote)
        decoded = decode_one(
            clip.media, clip.info, Clip("c", 0, clip.start_s, clip.end_s), DecodeSettings(fps=1), source(remote)
        )
    assert len(decoded.frames) == 2
    assert [question.id for question in clip.questions] == ["shape", "heard", "count", "story", "all"]
    assert [target.question_id for target in clip.targets] == ["heard"]


# --- published benchmarks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["A. a cat", "B. a dog"], ("a cat", "a dog")),
        ("['A. a cat', 'B. a dog']", ("a cat", "a dog")),
        ('["A. it\'s a cat", "B. a \\"dog\\""]', ("it's a cat", 'a "dog"')),
        ("['A. a cat' 'B. a dog'\n 'C. a bird']", ("a cat", "a dog", "a bird")),
        ("['A. it's raining', 'B. it isn't', 'C. none']", ("it's raining", "it isn't", "none")),
        ("array(['A. one, two', 'B. three'], dtype=object)", ("one, two", "three")),
        ("A. a cat\nB. a dog\nC. both A and B", ("a cat", "a dog", "both A and B")),
        ("A. a cat B. a dog", ("a cat", "a dog")),
        ("['a cat', 'a dog']", ("a cat", "a dog")),
        ("['A. a cat', 'B. a dog'", ("a cat", "a dog")),
        ("(A) a cat (B) a dog", ("a cat", "a dog")),
        ('{"A": "a cat", "B": "a dog"}', ("a cat", "a dog")),
        (np.array(["A. a cat", "B. a dog"], dtype=object), ("a cat", "a dog")),
        ("yes; no", ("yes", "no")),
        (["12", "13"], ("12", "13")),
    ],
)
def test_candidate_lists_as_they_are_published(given, options):
    assert options_of(given) == options


@pytest.mark.parametrize("given", ["", "[]", None, 3, "['only one']", [None, None]])
def test_what_holds_no_options_is_refused(given):
    with pytest.raises(EvaluationError, match="two options"):
        options_of(given)


def test_right_letters_and_class_names():
    assert [answer_letter(a, ("x", "y", "z")) for a in ("B", "b.", "(C)", "y", "A. x")] == ["B", "B", "C", "B", "A"]
    with pytest.raises(EvaluationError):
        answer_letter("F", ("x", "y"))
    assert names_in("['Speech', 'Music']") == ("Speech", "Music")
    assert names_in("Music") == ("Music",)
    assert names_in(None) == ()


def row_files(videos, root, *places):
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(videos / "short.mp4", root / place)


def test_worldsense_in_its_own_layout(tmp_path, videos):
    root = tmp_path / "WorldSense"
    row_files(videos, root, "videos/one.mp4", "videos/two.mp4")
    rows = [
        ("0", "videos/one.mp4", "What is heard?", "['A. a tone', 'B. it's rain']", "A", "Audio", "['Speech', 'Event']"),
        ("1", "videos/one.mp4", "What is shown?", "['A. grey' 'B. red']", "A. grey", "Visual", "['Event']"),
        ("2", "videos/two.mp4", "What is heard?", "??", "A", "Audio", "['Event']"),
        ("3", "videos/gone.mp4", "What is heard?", "['A. a', 'B. b']", "A", "Audio", "['Event']"),
    ]  # fmt: skip
    with (root / "WorldSense.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["index", "video_path", "question", "candidates", "answer", "task_type", "audio_class"])
        writer.writerows(rows)
    found = evaluate(tmp_path, "benchmark", "worldsense", "--root", root, "--retained", 0.4, "--letters")
    assert found["count"] == 4
    assert found["answered"] == 2
    assert found["failures"] == {"bad_row": 1, "media_missing": 1}
    assert found["clips"] == 3
    assert found["tasks"]["Audio"]["count"] == 3
    assert found["groups"]["audio class"]["Speech"]["count"] == 1
    assert found["groups"]["audio class"]["Event"]["count"] == 4
    assert any("row 3" in note for note in found["notes"])
    # One pass for the video's two questions: both in one set of packed rows.
    assert found["setting"]["max_frames"] == 128


def test_video_mme_parquet_daily_omni_and_avut(tmp_path, videos):
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path / "Video-MME"
    row_files(videos, root, "data/abc.mp4")
    (root / "videomme").mkdir()
    question = {
        "video_id": "001", "videoID": "abc", "question_id": "001-1", "question": "What is heard?", "answer": "B",
        "options": ["A. speech", "B. tones", "C. rain", "D. wind"], "duration": "short", "domain": "Knowledge",
        "task_type": "Audio",
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([question]), root / "videomme" / "test-00000-of-00001.parquet")
    found = evaluate(tmp_path, "benchmark", "video-mme", "--root", root, "--mode", "dense_shared")
    assert (found["count"], found["answered"]) == (1, 1)
    assert found["setting"]["max_frames"] == 768
    assert found["guess"] == 0.25
    assert found["groups"]["duration"]["short"]["count"] == 1

    root = tmp_path / "Daily-Omni"
    row_files(videos, root, "videos/xyz/xyz_video.mp4")
    daily = {"Question": "What is heard?", "Choice": ["A. tones", "B. rain"], "Answer": "A", "video_id": "xyz"}
    (root / "qa.json").write_text(json.dumps([daily | {"Type": "AV Event Alignment", "video_duration": "30s"}]))
    found = evaluate(tmp_path, "benchmark", "daily-omni", "--root", root, "--letters", "--retained", 0.4)
    assert list(found["tasks"]) == ["AV Event Alignment"]
    assert found["answered"] == 1

    root = tmp_path / "AVUT"
    row_files(videos, root, "clips/v1.mp4")
    avut = {"QA_id": 1, "video_id": "v1", "question": "What is heard?", "option_A": "tones", "option_B": "rain"}
    avut |= {"option_C": "", "answer": "A", "task_type": "Audio"}
    (root / "AV_Human_data.json").write_text(json.dumps([avut]))
    found = evaluate(tmp_path, "benchmark", "avut", "--root", root, "--letters", "--retained", 0.4)
    assert (found["answered"], found["guess"]) == (1, 0.5)


def test_toy_clips_without_a_folder_to_draw_into(no_home, tmp_path):
    with pytest.raises(EvaluationError, match=r"this user has no home; set XDG_CACHE_HOME"):
        toy.toy_clips("v1", 1, 3)
    (tmp_path / "file").touch()
    with pytest.raises(EvaluationError, match=r"Not a directory: .*; set XDG_CACHE_HOME"):
        toy.toy_clips("v1", 1, 3, folder=tmp_path / "file")


def test_folders_that_hold_no_benchmark(tmp_path, videos):
    assert "is not a folder" in refused("benchmark", "avut", "--root", tmp_path / "none")
    (tmp_path / "root").mkdir()
    assert "no file of questions with" in refused("benchmark", "avut", "--root", tmp_path / "root")
    rows = [{"video_path": "../outside.mp4", "question": "?", "option_A": "a", "option_B": "b", "answer": "A"}]
    shutil.copy(videos / "short.mp4", tmp_path / "outside.mp4")
    for name in ("one.json", "two.json"):
        (tmp_path / "root" / name).write_text(json.dumps(rows))
    assert "choose with --questions-file" in refused("benchmark", "avut", "--root", tmp_path / "root")
    chosen = ("--questions-file", tmp_path / "root" / "one.json")
    assert "none of 1 videos" in refused("benchmark", "avut", "--root", tmp_path / "root", *chosen)
