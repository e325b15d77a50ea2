"""Finding moments: words in any form, typed conditions, what stands around them, and texts that try to be SQL."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.find.grammar import All, Any, Condition, FindError, Not, Words, parse
from pipeline.find.search import find
from pipeline.tables.query import open_results
from tests.support.published_tables import publish
from tests.support.small_jobs import cli


def said(text=None, people=None, setting=None, night=None, probability=0.9):
    given = {"seen": ("text", text, None), "people": ("number", people, probability),
             "setting": ("choice", setting, probability), "night": ("boolean", night, probability)}  # fmt: skip
    return {name: answer for name, answer in given.items() if answer[1] is not None}


CLIPS = {
    "news/a.mp4": [
        (0, 30, said("A red car passes a café.", "3", "street", "no")),
        (25, 55, said("Two cars, one of them red.", "1", "Street", "no", 0.6)),
        (60, 90, said("A blue car and a red van.", "3", "studio", "yes")),
    ],
    "b.mp4": [
        (0, 30, said("红色的车", "2", "studio", "no", 0.7)),
        (30, 60, {}),
        (60, 90, said("Nobody.", "0", "none", "yes")),
    ],
}


WHOLE = {
    "news/a.mp4": {"summary": ("text", "Cars in the rain.", None), "topic": ("choice", "traffic", 0.8)},
    "b.mp4": {"topic": ("choice", "people", 0.6)},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("found"), CLIPS, whole=WHOLE)


@pytest.fixture(scope="module")
def connection(results):
    with open_results(str(results)) as opened:
        yield opened


A, B = "news/a.mp4", "b.mp4"


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("red car", [(A, 0, 55), (A, 60, 90)]),  # both words in one answer, in any form
        ('"red car"', [(A, 0, 30)]),
        ("CAFE", [(A, 0, 30)]),
        ("cars and studio", [(A, 60, 90)]),  # two answers of one clip
        ("people > 2", [(A, 0, 30), (A, 60, 90)]),
        ("people >= 2.0 and setting = studio", [(A, 60, 90), (B, 0, 30)]),
        ("people = 2 or people = 0", [(B, 60, 90), (B, 0, 30)]),  # 0.9 before 0.7
        ("setting = STREET", [(A, 0, 55)]),
        ("setting != street", [(A, 60, 90), (B, 60, 90), (B, 0, 30)]),
        ("night = yes and not nobody", [(A, 60, 90)]),
        ("not night = no", [(B, 30, 90), (A, 60, 90)]),  # also where it was not answered
        ("night != no", [(B, 60, 90), (A, 60, 90)]),
        ("(nobody or cafe) and night = no", [(A, 0, 30)]),
        ("车", [(B, 0, 30)]),
        ("helicopter", []),
        ("cafe\0\udcff", [(A, 0, 30)]),
        # What was answered about a video as a whole.
        ("rain", [(A, 0, 600)]),
        ("topic != traffic", [(B, 0, 600)]),
        ("not topic = traffic", [(B, 0, 600)]),
        ("rain and topic = traffic", [(A, 0, 600)]),
        ("topic = traffic and studio", [(A, 60, 90)]),  # holds in each of its clips
        ("topic = people and not night = yes", [(B, 0, 600)]),
        ("cars", [(A, 0, 55), (A, 0, 600), (A, 60, 90)]),
    ],
)
def test_what_is_found(connection, what, expected):
    found, total = find(connection, what, "test")
    assert total == len(expected)
    assert sorted((one.media_key, one.start_s, one.end_s) for one in found) == sorted(expected)


def test_the_best_come_first_with_what_fits(connection):
    best, *others = find(connection, "red car", "test")[0]
    assert (best.answers[0], best.clips) == ("seen: A red car passes a café.", 2)
    assert all(best.score >= other.score for other in others)
    sure = [one.probability for one in find(connection, "people >= 0", "test")[0]]
    assert sure == sorted(sure, reverse=True)
    assert find(connection, "people >= 0", "test", most=1)[1] == len(sure)
    assert [one.media_key for one in find(connection, "people >= 0", "test", media="news/*")[0]] == [A, A]


def test_a_moment_has_the_answers_of_all_its_clips(tmp_path):
    """What the best clip says is not what all of them say."""
    people = [("1", 0.9), ("2", 0.95), ("2", 0.6), ("0", 0.9), ("3", 0.7), ("0", 0.9)]
    clips = [(10 * n, 10 * n + 10, said(f"Scene {n}.", *one[:1], None, None, one[1])) for n, one in enumerate(people)]
    results = publish(tmp_path, {"a.mp4": clips})
    with open_results(str(results)) as opened:
        first, second = find(opened, "people >= 1", "test")[0]
        (scenes,) = find(opened, "scene", "test")[0]
    assert (second.answers, second.probability, second.clips) == (("people: 2", "people: 1"), 0.6, 3)
    assert (first.answers, first.probability, first.start_s) == (("people: 3",), 0.7, 40)
    assert scenes.answers == tuple(f"seen: Scene {n}." for n in range(6))
    heard = {
        "first": ("choice", "high tone", 0.9),
        "last": ("choice", "high tone", 0.6),
        "seen": ("choice", "red", 0.5),
    }
    with open_results(str(publish(tmp_path / "two", {"a.mp4": [(0, 10, heard)]}))) as opened:
        (both,) = find(opened, "tone", "test")[0]
    assert (both.answers, both.probability) == (("first: high tone", "last: high tone"), 0.6)
    shown = cli("find", "scene", results).stdout
    assert "Scene 3." in shown
    assert "and 2 more" in shown
    assert "Scene 4." not in shown
    done = cli("export", results, "--find", "people >= 1", "--to", "srt", "-o", "-")
    assert "found: people: 2 · people: 1" in done.stdout


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("peple > 2", "no question peple; did you mean people?"),
        ("people > many", "people takes a number, for example people > 2"),
        ("setting > 2", "setting is not a number (choice)"),
        ("night = maybe", "night takes yes or no"),
        ("people >", "a value is missing after people >"),
        ("(people > 2", "a ) is missing"),
        ("people > 2)", "unexpected )"),
        ("red or", "words or a condition expected here"),
        ('"red car', 'a closing " is missing'),
        ("> 2", "words or a condition expected here"),
        ("   ", "the search is empty"),
        ("...", "at least one letter or digit"),
        ("(" * 60 + "a" + ")" * 60, "more than 40 nested parentheses"),
        ("a " * 2000, "up to 2000 are allowed"),
    ],
)
def test_what_cannot_be_looked_for_says_why(connection, what, message):
    with pytest.raises(FindError) as raised:
        find(connection, what, "test")
    assert message in str(raised.value)


def test_what_nobody_answered_is_said(connection, caplog):
    find(connection, "setting = STUDIO or people = 77", "test")
    assert caplog.messages == []
    assert find(connection, "setting = studoi", "test") == ([], 0)
    (said,) = caplog.messages
    assert said.startswith("no answer to setting is studoi; there are: ")
    assert "studio" in said


def test_the_tree():
    assert parse('red "blue van" or not (a = "b c" and d>=2)') == Any(
        (
            Words(("red", "blue van")),
            Not(All((Condition("a", "=", "b c"), Condition("d", ">=", "2")))),
        )
    )
    assert parse("a b people > 2 c") == All((Words(("a", "b")), Condition("people", ">", "2"), Words(("c",))))
    assert parse("and = 2") == Condition("and", "=", "2")


@pytest.mark.parametrize(
    "what",
    [
        "'; DROP VIEW answers; --",
        "people = 1 OR 1=1",
        'x" OR answer:red NEAR(a b)',
        "setting = \"' OR '1'='1\"",
        "a* ^b",
    ],
)
def test_words_are_never_sql(connection, what):
    try:
        found, _ = find(connection, what, "test")
    except FindError:
        found = []
    assert found == []
    assert connection.execute("SELECT count(*) FROM answers").fetchone() == (20,)


@given(st.text(max_size=60))
def test_any_text_is_an_answer_or_a_users_mistake(connection, text):
    with contextlib.suppress(FindError):
        find(connection, text, "test")


def test_the_command_shows_a_table_or_json(results, tmp_path):
    shown = cli("find", "red car", results, "--rows", "1")
    assert shown.exit_code == 0, shown.output
    assert "news/a.mp4 │ 0:00:00.0 │ 0:00:55.0" in shown.stdout
    assert "2 moments, showing the best 1" in shown.stderr
    found = json.loads(cli("find", "people > 2", results, "--json", "-").stdout)
    assert [(one["media_key"], one["start_s"]) for one in found["moments"]] == [(A, 0), (A, 60)]
    done = cli("export", results, "--find", "people > 2", "--to", "srt", "-o", tmp_path / "a.srt")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.srt").read_text().count("found: people: 3") == 2
    assert cli("find", "people >", results).exit_code == 2
    assert cli("find", results, "red car", "--rows", "1").stdout == shown.stdout  # as for query, in either order
