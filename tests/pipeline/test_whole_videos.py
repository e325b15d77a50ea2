"""Questions about whole videos in jobs (`scope: video`): asked when a video's clips are settled, and again when one of
their answers or the questions change. A stub stands for ffmpeg and the model (`tests.support.stub_runs`)."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from pipeline.checks.verify import verify
from pipeline.config.job import StorageConfig, load_job
from pipeline.failure_rules import RUNS
from pipeline.index.savings_index import KnownVideo
from pipeline.planning.whole_videos import is_left_over
from pipeline.questions.question_set import QuestionSetError, load_question_set
from pipeline.records.video import VideoKey
from pipeline.report.queries import gather
from pipeline.runs.maintenance import forget_media, rebuild_results
from pipeline.storage.store import open_store
from tests.support.small_jobs import cli, run, select
from tests.support.stub_runs import QUESTIONS, stub_runs, video

WHOLE = '  - {id: tone, scope: video, text: "Is a tone ever heard?", answer: {type: boolean}}\n'
ROWS = "SELECT media_key, question_id, answer, clips, clips_missing FROM whole_answers ORDER BY ALL"


@pytest.fixture
def asked():
    with stub_runs() as counted:
        yield counted


@pytest.fixture
def project(tmp_path):
    for number in range(2):
        video(tmp_path / "archive" / f"{number}.mp4", f"video {number}", clips=2)
    (tmp_path / "questions.yaml").write_text(QUESTIONS + WHOLE)
    (tmp_path / "job.yaml").write_text(
        "name: test\narchive: {uri: archive, max_missing: 1}\noutput: results\nquestion_set: questions.yaml\n"
        "clips: {length_s: 10}\nmodel: {device: cpu}\nexecution: {ray_address: in-process, clips_per_unit: 1}\n"
    )
    return tmp_path


def index(folder, **overrides):
    return run(folder / "job.yaml", **overrides)


def rows(folder, sql=ROWS):
    return select(folder / "job.yaml", sql)


def read_since(asked):
    """The texts that were read since this was called."""
    texts, asked.texts = asked.texts, []
    return texts


def test_a_lost_record_of_what_was_asked_is_written_again_and_no_answer_stops_counting(project, asked):
    index(project)
    before = rows(project)
    (kept,) = (project / "results/journal/recipes").iterdir()
    for lose in (kept.unlink, lambda: kept.write_text("{")):
        lose()
        assert [p.where for p in verify(open_store(str(project / "results")), None).problems if p.part == "journal"]
        index(project)
        assert rows(project) == before
        assert verify(open_store(str(project / "results")), None).is_clean


def test_each_video_is_asked_once_and_again_only_when_its_clips_answers_change(project, asked):
    assert index(project).run.counts.videos_asked == 2
    first, _ = read_since(asked)
    of_first = "FROM answers WHERE media_key = '0.mp4' ORDER BY start_s, question_id = 'heard'"
    answers = rows(project, f"SELECT question, answer, probability {of_first}")
    said = [f"{question} {answer} ({100 * sure:.0f} %)" for question, answer, sure in answers]
    assert first.splitlines()[1:] == [f"0:00 to 0:10: {said[0]}; {said[1]}", f"0:10 to 0:20: {said[2]}; {said[3]}"]
    assert [row[:2] + row[3:] for row in rows(project)] == [(f"{n}.mp4", "tone", 2, 0) for n in range(2)]
    # As answers of any other kind, beside the rules of questions about clips, and in the report.
    found = rows(project, "SELECT media_key, rule, answer = answer FROM video_answers ORDER BY ALL")
    assert found == [(f"{n}.mp4", "asked", True) for n in range(2)]
    assert rows(project, "SELECT count(*) FROM answers") == [(8,)]
    (cost,) = set(rows(project, "SELECT texts, flops, round(model_s, 3) FROM whole_answers"))
    assert cost == (1, 500, 0.02)
    (shown,) = gather(str(project / "results"), StorageConfig(), budget_bytes=10_000).whole
    assert (shown.question_id, shown.videos, [key for key, *_ in shown.most]) == ("tone", 2, ["0.mp4", "1.mp4"])
    before = asked.clips()
    assert index(project).did_nothing
    assert (read_since(asked), asked.clips()) == ([], before)
    was = (project / "archive" / "1.mp4").read_text()
    video(project / "archive" / "1.mp4", "another one", clips=2)
    index(project)
    assert len(read_since(asked)) == 1
    # Taken back, what was read about it counts again.
    (project / "archive" / "1.mp4").write_text(was)
    before = asked.clips()
    index(project)
    assert (read_since(asked), asked.clips()) == ([], before)
    assert len(rows(project)) == 2


def test_a_question_of_videos_asks_no_clip_and_one_taken_away_leaves_no_rows(project, asked):
    index(project)
    before = asked.clips(), len(read_since(asked))
    (project / "questions.yaml").write_text(QUESTIONS + WHOLE.replace("ever", "often"))
    index(project)
    assert {text for (text,) in rows(project, "SELECT question FROM whole_answers")} == {"Is a tone often heard?"}
    assert len(read_since(asked)) == 2
    for questions, count in ((QUESTIONS, 0), (QUESTIONS + WHOLE, 2)):
        (project / "questions.yaml").write_text(questions)
        index(project)
        assert len(rows(project)) == count
    assert (asked.clips(), len(read_since(asked)) + 2) == before


def test_a_copy_shares_what_was_read_unless_the_question_reads_its_name(project, asked):
    copy = project / "archive" / "copy.mp4"
    copy.write_bytes((project / "archive" / "0.mp4").read_bytes())
    index(project)
    assert len(read_since(asked)) == 2
    assert rows(project, "SELECT count(*), sum(flops) FROM whole_answers") == [(3, 1000)]  # its costs count once
    (project / "questions.yaml").write_text(QUESTIONS + WHOLE.replace("Is a tone", "Is a tone of {{ media.stem }}"))
    copy.rename(project / "archive" / "renamed.mp4")
    before = asked.clips()
    index(project)
    assert (len(read_since(asked)), asked.clips()) == (3, before)
    assert ("Is a tone of renamed ever heard?",) in rows(project, "SELECT question FROM whole_answers")


def test_a_long_video_is_read_in_two_levels(project, asked):
    asked.tokens_a_word = 120  # a line has some 17 words: four of them are within the bound
    video(project / "archive" / "long.mp4", "long", clips=5)
    index(project)
    texts = [text for text in read_since(asked) if "0:20 to" in text or "0:40" in text]
    assert [len(text.splitlines()) for text in texts] == [5, 2, 3]
    assert [line.partition("? ")[0] for line in texts[-1].splitlines()[1:]] == [
        "0:00 to 0:40: Is a tone ever heard",
        "0:40 to 0:50: Is a tone ever heard",
    ]
    assert rows(project, "SELECT texts, flops FROM whole_answers WHERE media_key = 'long.mp4'") == [(3, 1500)]


def test_what_is_said_in_a_clip_is_read_too_and_a_changed_transcript_is_read_again(project, asked):
    told = "instruction: \"Said here: {{ clip.transcript | default('nothing') }}\"\nquestions:"
    (project / "questions.yaml").write_text((QUESTIONS + WHOLE).replace("questions:", told))
    (project / "archive" / "1.mp4").unlink()
    words = "WEBVTT\n\n00:01.000 --> 00:02.000\nWelcome.\n\n00:12.000 --> 00:13.000\nGoodbye.\n"
    sidecar = project / "archive" / "0.vtt"
    sidecar.write_text(words)
    index(project)
    (text,) = read_since(asked)
    assert [line.partition("; said: ")[2] for line in text.splitlines()[1:]] == ["Welcome.", "Goodbye."]
    sidecar.write_text(words.replace("Goodbye", "Farewell"))
    index(project)
    (text,) = read_since(asked)
    assert [line.partition("; said: ")[2] for line in text.splitlines()[1:]] == ["Welcome.", "Farewell."]
    assert index(project).did_nothing
    assert len(rows(project)) == 1


def test_what_fails_is_in_quarantine_and_tried_again_by_some_runs_and_by_retry(project, asked):
    asked.breaks = True
    summary = index(project)
    assert summary.error_classes == (("model_error", 2),)
    assert summary.totals.quarantined == 2
    failed = "SELECT media_key, stage, error_class, message FROM quarantine ORDER BY ALL"
    assert rows(project, failed) == [(f"{n}.mp4", "whole", "model_error", "the stub breaks") for n in range(2)]
    assert (len(rows(project)), rows(project, "SELECT count(*) FROM answers")) == (0, [(8,)])
    before = asked.clips()
    index(project)
    assert len(read_since(asked)) == 4  # the next run tried once more
    key = VideoKey("", "", "", attempt=RUNS - 1)
    assert is_left_over(KnownVideo(key, ("model_error",)))
    assert not is_left_over(KnownVideo(replace(key, attempt=RUNS), ("model_error",)))
    asked.breaks = False
    done = cli("retry", project / "job.yaml", "--error-class", "model_error", "--media", "1.mp4")
    assert "whole videos" in done.output
    assert [row[0] for row in rows(project)] == ["1.mp4"]
    assert done.exit_code == 0, done.output
    assert (len(read_since(asked)), asked.clips()) == (1, before)
    assert [row[0] for row in rows(project, failed)] == ["0.mp4"]


def found_wrong(project):
    job = load_job(project / "job.yaml")
    return [(one.kind, one.where) for one in verify(open_store(job.output), job.resolved_index_url()).problems]


def test_what_was_read_is_forgotten_rebuilt_and_verified(project, asked):
    index(project)
    records = sorted((project / "results" / "journal" / "videos").rglob("*.parquet"))
    before = rows(project)
    shutil.rmtree(project / "results" / "tables")
    rebuild_results(load_job(project / "job.yaml"))
    assert rows(project) == before
    whole, misplaced = records
    kept = misplaced.read_bytes()
    misplaced.write_bytes(whole.read_bytes())
    kind, where = found_wrong(project)[0]
    assert (kind, where) == ("misplaced", str(misplaced.relative_to(project / "results")))
    misplaced.write_bytes(kept)
    forget_media(load_job(project / "job.yaml"), "0.mp4")
    assert len(list((project / "results" / "journal" / "videos").rglob("*.parquet"))) == 1
    assert [row[0] for row in rows(project)] == ["1.mp4"]
    assert found_wrong(project) == []


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("video: any", "question tone: scope: video already gives one answer per video; remove video: any"),
        ("retained_ratio: 0.5", "is asked about a text, which is not pruned; remove retained_ratio"),
        ("text: '{{ clip.transcript }}?'", "cannot read clip.transcript; it may read vars and media"),
        ("text: '{{ media.meta.title }}?'", "cannot read media.meta.title; it may read vars and media"),
        ("scope: file", "scope: input should be 'clip' or 'video'; given: 'file'"),
    ],
)
def test_what_a_question_of_videos_cannot_have(tmp_path, question, said):
    path = tmp_path / "questions.yaml"
    given = {"scope": "video", "text": "'What?'"} | dict([question.split(": ", 1)])
    fields = ", ".join(f"{name}: {value}" for name, value in given.items())
    path.write_text(f"{QUESTIONS}  - {{id: tone, answer: {{type: boolean}}, {fields}}}\n")
    with pytest.raises(QuestionSetError) as raised:
        load_question_set(path)
    assert said in str(raised.value)


def test_a_set_without_questions_of_clips_says_so(tmp_path):
    path = tmp_path / "questions.yaml"
    path.write_text("name: whole\nversion: 1\nquestions:\n" + WHOLE)
    with pytest.raises(QuestionSetError, match="all questions have scope: video"):
        load_question_set(path)
