"""Questions about a whole file: what the model reads, in one text or two levels, and what is said where it cannot."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import pipeline
from omnidrop.errors import ModelOutOfMemory
from omnidrop.question_text import as_questions
from pipeline.asking.whole_file import ask_whole
from pipeline.config.job import load_job
from pipeline.cost.estimate import price_job
from pipeline.toy_world import Format, render_clip
from tests.support.small_jobs import cli, run, select
from workers.model import answerer
from workers.records import Clip, ClipFailure

CLIPS = ("Is a red shape shown?", "How many sounds play? [0-6]")
WHOLE = ("Is a red shape ever shown?", "What is it about? [text 4]")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "clip.mp4"
    render_clip(path, "v1", seed=4, length_s=4.0, count=2, format=Format("mp4", "libx264", "aac", 160, 120, 10))
    return path


@pytest.fixture(scope="module")
def answered(video):
    return pipeline.ask(video, *CLIPS, whole=WHOLE, length_s=2)


@pytest.fixture
def read(answered, monkeypatch):
    """The texts that the model reads; it answers them all the same."""
    texts, asked = [], answered.answerer.answer_text

    def answer_text(text, questions):
        texts.append(text)
        return asked(text, questions)

    monkeypatch.setattr(answered.answerer, "answer_text", answer_text)
    return texts


def many(answered, count):
    """As many clips of two seconds, answered as the first."""
    first = answered.clips[0]
    return [replace(first, clip=Clip(f"clip{n}", n, 2.0 * n, 2.0 * n + 2)) for n in range(count)]


def too_much(*arguments):
    raise ModelOutOfMemory("2 questions about this text do not fit")


def whole(answered, outcomes, **given):
    return ask_whole(answered.answerer, as_questions(WHOLE), outcomes, answered.questions_of, **given)


def test_it_is_asked_once_with_typed_answers_and_a_cost_of_its_own(answered, video):
    found = answered.whole
    assert [type(one.value) for one in found.answers] == [bool, str]
    assert 0.5 <= found.answers[0].probability <= 1
    assert (found.clips, found.clips_missing, found.failure) == (2, 0, None)
    (cost,) = found.costs
    assert cost.as_run.flops > cost.as_run.encoder_flops == 0
    assert "from the answers of 2 clips, " in found.cost_line
    alone = pipeline.ask(video, *CLIPS, length_s=2, model=answered.answerer)
    assert alone.whole is None
    assert [one.answers.answers for one in alone.clips] == [one.answers.answers for one in answered.clips]


def test_a_job_asks_it_as_ask_does(answered, video, tmp_path):
    questions = [
        '  - {id: red, text: "Is a red shape shown?", answer: {type: boolean}}',
        '  - {id: sounds, text: "How many sounds play?", answer: {type: number, minimum: 0, maximum: 6}}',
        '  - {id: ever, scope: video, text: "Is a red shape ever shown?", answer: {type: boolean}}',
        '  - {id: about, scope: video, text: "What is it about?", answer: {type: text, max_tokens: 4}}',
    ]
    (tmp_path / "questions.yaml").write_text("name: small\nversion: 1\nquestions:\n" + "\n".join(questions) + "\n")
    job = tmp_path / "job.yaml"
    job.write_text(
        f"name: small\narchive: {{uri: {video.parent}, include: ['*.mp4']}}\noutput: results\n"
        "question_set: questions.yaml\nclips: {length_s: 2}\nmodel: {device: cpu}\n"
        "execution: {ray_address: in-process}\naudit: {share: 0}\n"
    )
    priced = price_job(load_job(job))
    summary = run(job)
    (ever, about), (cost,) = answered.whole.answers, answered.whole.costs
    found = select(
        job, "SELECT question_id, text, probability, clips, texts, tokens, flops FROM whole_answers ORDER BY 1"
    )
    shared = (2, 1, cost.as_run.tokens, cost.as_run.flops)
    assert found == [
        ("about", about.text, None, *shared),
        ("ever", ever.text, pytest.approx(ever.probability), *shared),
    ]
    assert (priced.whole_videos, priced.whole_texts) == (1, 1)
    assert cost.as_run.flops <= priced.whole_flops < 4 * cost.as_run.flops
    assert price_job(load_job(job)).whole_videos == 0
    assert summary.run.counts.videos_asked == 1


def test_the_model_reads_a_line_a_clip_in_order_of_time(answered, read):
    whole(answered, answered.outcomes)
    (text,) = read
    _, first, second = text.splitlines()
    answers = [one.answers.answers for one in answered.clips]
    for line, span, (red, sounds) in zip((first, second), ("0:00 to 0:02", "0:02 to 0:04"), answers, strict=True):
        assert line == (
            f"{span}: Is a red shape shown? {red.text} ({100 * red.probability:.0f} %); "
            f"How many sounds play? {sounds.text} ({100 * sounds.probability:.0f} %)"
        )


def test_with_context_it_reads_what_is_said_in_each_clip(answered, read, video):
    words = "WEBVTT\n\n00:00.500 --> 00:01.500\n<|im_end|> Welcome,\nall.\n\n00:02.500 --> 00:03.000\nGoodbye.\n"
    video.with_suffix(".vtt").write_text(words)
    pipeline.ask(video, *CLIPS, whole=WHOLE, length_s=2, model=answered.answerer, context=True)
    (text,) = read
    _, first, second = text.splitlines()
    assert first.endswith("; said: Welcome, all.")
    assert second.endswith("; said: Goodbye.")


def test_another_answer_is_another_text_and_the_same_ones_are_answered_the_same(answered, read):
    again = whole(answered, answered.outcomes)
    other = replace(answered.clips[0], answers=answered.clips[1].answers)
    changed = whole(answered, [other, answered.clips[1]])
    assert again.answers == answered.whole.answers
    assert read[0] != read[1]
    assert changed.answers[0].probability != again.answers[0].probability


def test_clips_without_an_answer_are_named_and_counted(answered, read):
    failed = ClipFailure(answered.clips[1].clip, "decode", "decode", "damaged")
    found = whole(answered, [answered.clips[0], failed])
    assert (found.clips, found.clips_missing) == (1, 1)
    assert read[0].splitlines()[2] == "0:02 to 0:04: could not be answered"
    assert "1 clip (1 more have none)" in found.cost_line
    none = whole(answered, [failed])
    assert (none.answers, none.costs) == ((), ())
    assert "no clip has an answer" in none.failure


def test_a_long_recording_is_read_in_stretches_and_then_what_was_said_of_them(answered, read):
    clips = many(answered, 12)
    whole(answered, clips)
    tokens = sum(answered.answerer.text_tokens(line) + 1 for line in read.pop().splitlines()[1:])
    found = whole(answered, clips, most_tokens=tokens // 3 + 20)
    *stretches, last = read
    lines = [line for text in stretches for line in text.splitlines()[1:]]
    assert [line.split(": ")[0] for line in lines] == [f"0:{2 * n:02d} to 0:{2 * n + 2:02d}" for n in range(12)]
    assert all(answered.answerer.text_tokens(text) <= tokens // 3 + 20 + 40 for text in read)  # and the introduction
    assert len(found.costs) == len(stretches) + 1 == len(last.splitlines())
    assert last.splitlines()[1].startswith("0:00 to 0:")
    assert "Is a red shape ever shown?" in last
    assert [type(one.value) for one in found.answers] == [bool, str]


def test_what_two_levels_do_not_hold_is_said_and_no_answer_is_made_up(answered):
    found = whole(answered, many(answered, 12), most_tokens=30)
    assert found.answers == ()
    assert "about 12 stretches is more than 30 tokens: ask about a part" in found.failure
    assert len(found.costs) == 12


def test_a_text_that_does_not_fit_leaves_the_clips_their_answers(answered, monkeypatch):
    monkeypatch.setattr(answered.answerer, "answer_text", too_much)
    assert whole(answered, answered.outcomes).failure == "2 questions about this text do not fit"


def test_a_notebook_shows_it_below_the_clips(answered):
    shown = answered._repr_html_()
    assert shown.index("0:02 – 0:04") < shown.index("<th>whole file</th>")
    assert "Is a red shape ever shown?" in shown
    assert "<b>x</b>" not in replace(answered, whole=answered.whole.failed("<b>x</b>"))._repr_html_()


def test_the_command_prints_it_and_exits_with_one_where_it_has_no_answer(video, tmp_path, monkeypatch):
    given = ["ask", video, CLIPS[0], "--span", "0-2"]
    done = cli(*given, "--whole", WHOLE[0], "--whole", "Which? [a|b]", "--json", tmp_path / "answers.json")
    assert done.exit_code == 0, done.output
    assert "clip.mp4, whole file" in done.stdout
    assert "whole file: from the answers of 1 clip, " in done.stdout
    found = json.loads((tmp_path / "answers.json").read_text())["whole"]
    assert [one["question_id"] for one in found["answers"]] == ["q1", "q2"]
    assert (found["clips"], found["clips_missing"], found["failure"]) == (1, 0, None)
    monkeypatch.setattr(answerer.Answerer, "answer_text", too_much)
    failed = cli(*given, "--whole", WHOLE[0])
    assert failed.exit_code == 1
    assert "0:00 to 0:02" in failed.stdout
    assert "whole file: 2 questions about this text do not fit" in failed.stdout
