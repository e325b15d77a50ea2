"""One file asked by hand: lines as questions, tables of three libraries, and mistakes that teach the way out."""

from __future__ import annotations

import json
import re
import warnings
import wave

import numpy as np
import pytest
import torch

import omnidrop
import pipeline
from jobs.ask import read_span
from omnidrop.errors import OmniDropError, PolicyError, QuestionError, UserError
from omnidrop.pruning import Pruning
from omnidrop.question_text import as_questions, read_question
from omnidrop.questions import Boolean, Choice, Number, Question, Text
from pipeline.asking import answered_file
from pipeline.toy_world import Format, render_clip
from tests.jobs.test_docs import ROOT, commands_of
from tests.support.media_files import X264, make, picture
from tests.support.small_jobs import cli, run, select

FORMAT = Format("mp4", "libx264", "aac", 320, 240, 10)
ASKED = (
    "Is a red shape shown?",
    "What colour is the circle? [red|green|blue|none]",
    "How many sounds play? [0-6 times]",
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A toy-world file of 8 s, with what happens in it."""
    path = tmp_path_factory.mktemp("ask") / "clip.mp4"
    return path, render_clip(path, "v1", seed=4, length_s=8.0, count=2, format=FORMAT).truth


@pytest.fixture(scope="module")
def answered(clip):
    return pipeline.ask(clip[0], *ASKED, length_s=4)


# --- lines as questions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "text", "answer"),
    [
        ("Is a circle shown? [yes/no]", "Is a circle shown?", Boolean()),
        ("A circle is shown. [no | yes]", "A circle is shown.", Boolean()),
        ("Is a circle shown?", "Is a circle shown?", Boolean()),
        ("Does it end with a tone?", "Does it end with a tone?", Boolean()),
        ("Is the circle red or blue?", "Is the circle red or blue?", Text()),
        ("Which? [red | light green|blue]", "Which?", Choice(("red", "light green", "blue"))),
        ("Which? [red/green]", "Which?", Choice(("red", "green"))),
        ("Which? [km/h|m/s]", "Which?", Choice(("km/h", "m/s"))),
        ("How many? [0-6]", "How many?", Number(0, 6)),
        ("How warm? [-10 to 40 step 0.5 °C]", "How warm?", Number(-10, 40, 0.5, "°C")),
        ("How many? [0-6 people]", "How many?", Number(0, 6, unit="people")),
        ("What is said?", "What is said?", Text()),
        ("What is said? [text 200]", "What is said?", Text(200)),
        ("Is [A] shown before B?", "Is [A] shown before B?", Boolean()),
    ],
)
def test_a_line_says_what_is_asked_and_how_it_is_answered(line, text, answer):
    assert read_question(line, "q1") == Question("q1", text, answer)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Which? [red]", r"\[red\] is no type of answer; write .*\[yes/no\]"),
        ("Which? [red|]", "at least two different, non-empty options"),
        ("Which? [red|red]", "at least two different"),
        ("How many? [6-0]", "minimum < maximum"),
        ("How many? [0-100000]", "at most 1001 values.*larger step"),
        ("Say it [text 0]", "max_tokens must be 1 to 4096"),
        ("[yes/no]", "has no text"),
        ("", "has no text"),
        ("Which? [red|green", "a bracket is missing"),
    ],
)
def test_a_line_that_says_nothing_usable_is_refused_with_what_may_be_written(line, message):
    with pytest.raises(QuestionError, match=message):
        as_questions([line])


def test_variables_without_a_question_set_are_refused():
    with pytest.raises(QuestionError, match=r"variables \(colour\) are those of a question set"):
        pipeline.ask("none.mp4", "Is it red?", variables={"colour": "red"})


# --- arrays, without any file -----------------------------------------------------------------------------------------


def test_arrays_are_asked_without_any_file():
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    given = omnidrop.answer(frames, None, ["Is a red shape shown?", Question("n", "How many?", Number(0, 3))], fps=2.0)
    assert [one.question_id for one in given.answers] == ["q1", "n"]
    assert given.answers[0].value is False
    for one, count in zip(given.answers, (2, 4), strict=True):
        assert len(one.probabilities) == count
        assert sum(one.probabilities) == pytest.approx(1)
        assert max(one.probabilities) == one.probability


FRAMES, SOUND = np.zeros((4, 64, 64, 3), np.uint8), np.zeros(32_000, np.float32)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"questions": {"red": "Is it red?"}}, "questions are a list, answered in its order, got dict"),
        ({"questions": None}, "got NoneType"),
        ({"fps": "2"}, "fps is the number of frames a second really sampled, got '2'"),
        ({"fps": True}, "got True"),
        ({"instruction": None}, "instruction is a text, got None"),
        ({"pruning": {"retained_ratio": 0.3}}, r"pruning is a Pruning, such as Pruning\(retained_ratio=0.3\), got"),
        ({"frames": torch.zeros(4, 64, 64, 3, dtype=torch.uint8)}, "frames and audio are numpy arrays, got Tensor"),
        ({"frames": np.zeros((4, 64, 64, 3))}, "multiply floats from 0 to 1 by 255"),
        ({"model": None}, "model is a checkpoint's name, its folder or an OmniModel, got None"),
    ],
)
def test_what_is_no_clip_question_or_model_is_named(given, message):
    with pytest.raises(OmniDropError, match=message):
        omnidrop.answer(**{"frames": FRAMES, "audio": SOUND, "questions": ["Is it red?"], "fps": 2.0, **given})


@pytest.mark.parametrize("given", [{"retained_ratio": True}, {"retained_ratio": "0.3"}, {"still_levels": "2"}])
def test_a_share_is_a_number(given):
    with pytest.raises(PolicyError, match="must be"):
        omnidrop.Pruning(**given)


def test_sound_of_another_rate_is_noticed():
    said = r"are 2.0 s, 88200 samples at 16 kHz are 5.5 s; resample"
    with pytest.warns(UserWarning, match=said), pytest.raises(UserError):
        omnidrop.answer(FRAMES, np.zeros(88_200, np.float32), ["Is it red?"], fps=2.0, model=None)
    with warnings.catch_warnings(action="error"), pytest.raises(UserError):
        omnidrop.answer(FRAMES, SOUND, ["Is it red?"], fps=2.0, model=None)


# --- a file -----------------------------------------------------------------------------------------------------------


def test_a_file_is_cut_and_every_clip_asked_all_questions(answered, clip):
    assert [(one.clip.start_s, one.clip.end_s) for one in answered.clips] == [(0, 4), (4, 8)]
    assert not answered.failures
    assert answered.retained_ratio == pytest.approx(0.3, abs=0.02)
    spent, dense = answered.flops
    assert 0 < spent < dense
    shown = {event.colour for event in clip[1].events if event.shape}
    found = [one.answers.answers[0].value for one in answered.clips]
    assert any(found) == ("red" in shown)


def test_the_tables_have_the_columns_and_values_that_a_job_publishes(job, videos):
    """The same file by hand and in an archive: the same answers, under the same names."""
    run(job)
    columns = "start_s, question, answer, answer_boolean, probability, margin, status, policy"
    where = "WHERE media_key = 'long.mkv' AND question_id = 'heard' ORDER BY start_s"
    published = select(job, f"SELECT {columns} FROM answers {where}")
    shape = Question("shape", "Which shape is shown in long.mkv?", Choice(("circle", "square")))
    heard = Question("heard", "Is a tone heard?", Boolean())
    asked = pipeline.ask(videos / "long.mkv", shape, heard, length_s=3, fps=1, retained_ratio=0.4)
    table = asked.to_arrow()
    assert table.column_names == list(answered_file.COLUMNS)
    ours = [row for row in table.to_pylist() if row["question_id"] == "heard"]
    assert [tuple(row[name] for name in columns.split(", ")) for row in ours] == [tuple(row) for row in published]


def test_pandas_and_polars_hold_what_arrow_holds(answered):
    rows = answered.to_arrow().to_pylist()
    assert answered.to_polars().to_dicts() == rows
    frame = answered.to_pandas()
    assert list(frame.columns) == list(answered_file.COLUMNS)
    assert frame["answer"].tolist() == [row["answer"] for row in rows]


def test_a_missing_package_is_named_with_what_to_install(answered, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(answered_file.PackageMissing, match=r"pip install polars.*to_arrow"):
        answered.to_polars()


def test_a_notebook_shows_a_table_in_which_nothing_is_markup(clip, answered, tmp_path):
    nasty = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    nasty.write_bytes(clip[0].read_bytes())
    shown = pipeline.ask(nasty, "Is <b>this</b> shown? [yes/no]", model=answered.answerer, span_s=(0, 2))._repr_html_()
    assert "<img" not in shown
    assert "Is &lt;b&gt;this&lt;/b&gt; shown?" in shown
    assert "retained ratio 30" in shown


def test_a_loaded_model_is_used_again_with_another_ratio(clip, answered):
    again = pipeline.ask(clip[0], *ASKED, model=answered.answerer, retained_ratio=None, length_s=4)
    assert again.answerer is answered.answerer
    assert again.retained_ratio == 1
    assert again.pruning == Pruning.off()
    assert [one.clip.clip_id for one in again.clips] == [one.clip.clip_id for one in answered.clips]


def test_a_question_set_is_filled_from_the_file(clip, answered):
    asked = pipeline.ask(
        clip[0], question_set="toy-world", variables={"colour": "green"}, model=answered.answerer, span_s=(1, 3.5)
    )
    assert len(asked.questions) == 11
    assert "Is a green shape shown?" in [question.text for question in asked.questions]
    assert [(one.clip.start_s, one.clip.end_s) for one in asked.clips] == [(1, 3.5)]


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_a_clip_and_the_cost(clip):
    done = cli("ask", clip[0], *ASKED, "--span", "0:02-0:06", "--length", 2)
    assert done.exit_code == 0, done.output
    assert "clip.mp4, 0:02 to 0:04" in done.stdout
    assert "clip.mp4, 0:04 to 0:06" in done.stdout
    assert "times" in done.stdout
    assert "against dense with prefix reuse; 2 clips, 3 questions" in done.stdout
    assert "know only their toy worlds" in done.stderr


def test_json_goes_to_standard_output_alone(clip):
    done = cli("ask", clip[0], "Is a red shape shown?", "--span", "0-2", "--json", "-")
    assert done.exit_code == 0, done.output
    given = json.loads(done.stdout)
    assert [row["question"] for row in given["answers"]] == ["Is a red shape shown?"]
    assert given["flops"] < given["flops_dense_shared"]


def test_a_file_without_sound_or_without_picture_is_no_mistake(tmp_path):
    make(*picture(2), *X264, tmp_path / "silent.mp4")
    done = cli("ask", tmp_path / "silent.mp4", "Is a red shape shown?")
    assert done.exit_code == 0, done.output
    assert "the file has no audio" in done.stderr
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(np.arange(32_000) / 10)).astype("<i2").tobytes())
    done = cli("ask", tmp_path / "tone.wav", "Is a tone heard?")
    assert done.exit_code == 0, done.output
    assert "the file has no video" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4", "Is it?"], "nowhere.mp4: there is no such file"),
        ([".", "Is it?"], "is a folder; ask takes one file. For a folder, use `omnidrop index`"),
        (["s3://bucket/clip.mp4", "Is it?"], "copy the file here, or index its bucket with a job"),
        (["notes.mp4", "Is it?"], "give a video or audio file, such as mp4"),
        (["clip.mp4"], "neither was given"),
        (["clip.mp4", "Is it?", "--questions", "toy-world"], "not both"),
        (["clip.mp4", "--questions", "toy-wrld"], "did you mean toy-world?"),
        (["clip.mp4", "--questions", "toy-world", "--variable", "color=red"], "did you mean colour?"),
        (["clip.mp4", "Which? [red]"], "[red] is no type of answer"),
        (["clip.mp4", "Is it?", "--whole", "Which? [red]"], "[red] is no type of answer"),
        (["clip.mp4", "--whole", "Is it?"], "neither was given"),
        (["clip.mp4", "Is it?", "--span", "5"], "write START-END"),
        (["clip.mp4", "Is it?", "--span", "60-90"], "begins at 60 s, but clip.mp4 is 8.0 s long"),
        (["clip.mp4", "Is it?", "--span", "4-2"], "end after it begins"),
        (["clip.mp4", "Is it?", "--retained", "30"], "retained_ratio"),
        (["clip.mp4", "Is it?", "--retained", "0.001"], "0.001"),
        (["clip.mp4", "Is it?", "--fps", "0"], "fps"),
        (["clip.mp4", "Is it?", "--device", "gpu"], "device"),
        (["clip.mp4", "Is it?", "--model", "./nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_answered_with_what_to_do(clip, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").symlink_to(clip[0])
    (tmp_path / "notes.mp4").write_text("not a video at all")
    done = cli("ask", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_shows_the_brackets_of_its_examples():
    assert "What colour is the circle? [red|green|blue]" in cli("ask", "--help").output


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="needs a machine without a GPU")
def test_asking_for_a_gpu_that_is_not_there_says_so(clip):
    done = cli("ask", clip[0], "Is it?", "--device", "cuda")
    assert done.exit_code == 2
    assert "torch sees no CUDA device; use cpu" in done.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/ask.md"])
def test_what_the_pages_show_about_asking_runs(clip, tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "video.mp4").symlink_to(clip[0])
    shown = [command for command in commands_of(ROOT / page) if command[0] == "ask"]
    assert shown
    for command in shown:
        done = cli(*command)
        assert done.exit_code == 0, (command, done.output)
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, page, "exec"), {})


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("0-30", (0, 30)), ("1:30-4:00", (90, 240)), ("1:00:00-1:00:07.5", (3600, 3607.5)), ("90-", (90, float("inf")))],
)
def test_a_span_is_read_in_seconds_or_minutes(given, seconds):
    assert read_span(given) == seconds


def test_a_wrong_span_is_refused():
    for wrong in ("30", "a-b", "-5", "1-2-3"):
        with pytest.raises(UserError, match="write START-END"):
            read_span(wrong)
