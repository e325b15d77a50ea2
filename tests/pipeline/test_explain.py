"""The storyboard of a clip: found by id, asked again, true to what was stored, whole in itself, usable in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import wave
import zlib
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest

from pipeline.config.job import load_job
from pipeline.explain.find_clip import ClipUnknown, find_clip
from pipeline.explain.page import PAGE_BYTES, render
from pipeline.explain.pictures import evenly, spectrogram_picture, thumbnails
from pipeline.explain.replay import CannotExplain, ask_again
from pipeline.explain.view_model import LEVELS, MAP_BYTES, PICTURE_BYTES, facts
from pipeline.journal.recipes import decode_recipe, recall
from pipeline.records.checksummed_parquet import JournalError
from pipeline.toy_world import Format, render_clip
from tests.jobs.test_docs import ROOT, commands_of
from tests.support.browser import browser
from tests.support.small_jobs import cli, run, select

NASTY = "<img src=x onerror=document.title=1>.mp4"
QUESTIONS = """\
name: toys
version: "1"
instruction: Look and listen.
variables: {colour: red}
questions:
  - {id: colour, text: "Which colour is shown first? </script><!--", answer: {type: choice,
     options: [red, green, blue, yellow, purple, white, none]}}
  - {id: sound, text: "Which sound is heard first?", answer: {type: choice,
     options: [low tone, high tone, rising sweep, falling sweep, noise, clicks, none]}}
  - {id: shown, text: "Is a {{ vars.colour }} shape shown?", answer: {type: boolean}}
  - {id: times, text: "How many times does a sound play?", answer: {type: number, minimum: 0, maximum: 6, unit: times}}
  - {id: said, text: "Which sound is heard last?", answer: {type: text, max_tokens: 4}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished job over a toy clip with a nasty name, a silent one, a sound and a file that is none of these."""
    folder = tmp_path_factory.mktemp("explain")
    (folder / "archive").mkdir()
    sounding, silent = (Format("mp4", "libx264", codec, 320, 240, 10) for codec in ("aac", None))
    render_clip(folder / "archive" / "clip.mp4", "v1", seed=4, length_s=6.0, count=2, format=sounding)
    (folder / "archive" / "clip.mp4").rename(folder / "archive" / NASTY)
    render_clip(folder / "archive" / "silent.mp4", "v1", seed=5, length_s=3.0, count=1, format=silent)
    (folder / "archive" / "notes.mp4").write_text("not a video at all")
    with wave.open(str(folder / "archive" / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(np.arange(48_000) / 10)).astype("<i2").tobytes())
    (folder / "questions.yaml").write_text(QUESTIONS)
    (folder / "job.yaml").write_text(
        "name: test\narchive: {uri: archive}\noutput: results\nquestion_set: questions.yaml\n"
        "variables: {colour: green}\nclips: {length_s: 8, fps: 2}\n"
        "pruning: {retained_ratio: 0.2, encoder_share: 0.35}\n"
        "execution: {ray_address: in-process}\n"
    )
    run(folder / "job.yaml")
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def clips(made):
    """Clip ids by media key."""
    return dict(select(made, "SELECT media_key, clip_id FROM clips"))


@pytest.fixture(scope="module")
def asked(made, clips):
    return ask_again(find_clip(load_job(made).output, clips[NASTY]))


@pytest.fixture(scope="module")
def board(asked):
    return facts(asked)


@pytest.fixture(scope="module")
def page(board):
    return render(board).decode()


# --- true to what was stored ------------------------------------------------------------------------------------------


def test_the_answers_and_counts_are_the_stored_ones(made, clips, asked, board):
    assert board.changes == ()
    stored = dict(select(made, f"SELECT question_id, text FROM answers WHERE clip_id = '{clips[NASTY]}'"))
    assert {q.id: a.text for q, a in zip(asked.questions, asked.pruned.answers.answers, strict=True)} == stored
    columns = "video_tokens, audio_tokens, layer_video_tokens, layer_audio_tokens, retained_ratio"
    (row,) = select(made, f"SELECT {columns} FROM clips WHERE clip_id = '{clips[NASTY]}'")
    assert board.patches * board.rows * board.columns == row[0]
    assert board.audio_tokens == row[1]
    assert board.video_kept[0] == pytest.approx([n / row[0] for n in row[2]], abs=1e-4)
    assert board.audio_kept[0] == pytest.approx([n / row[1] for n in row[3]], abs=1e-4)
    assert board.retained_ratio == pytest.approx(row[4])


def test_the_maps_say_where_each_token_left_and_what_was_looked_at(asked, board):
    tokens = board.patches * board.rows * board.columns + board.audio_tokens
    maps = np.frombuffer(board.maps, np.uint8).reshape(-1, tokens)
    assert len(maps) == 1 + len(board.questions) * len(board.map_layers)
    entered, video = maps[0], tokens - board.audio_tokens
    for layer in range(board.layers):
        assert (entered[:video] > layer).sum() == round(board.video_kept[0][layer] * video)
        assert (entered[video:] > layer).sum() == round(board.audio_kept[0][layer] * board.audio_tokens)
    assert maps[1:].max() == LEVELS
    # Token by token: the trace in the page's order is the trace.
    trace = asked.pruned.answers.positions
    places = {tuple(place): n for n, place in enumerate(trace.grid.tolist()) if trace.modality[n] == 2}
    left = trace.layers_entered()
    of_page = [(t, r, c) for t in range(board.patches) for r in range(board.rows) for c in range(board.columns)]
    assert entered[:video].tolist() == [left[places[place]] for place in of_page]
    # A cell that was never encoded, or once for several moments, is told from one that was dropped.
    encoded = np.frombuffer(board.encoded, np.uint8)
    known = trace.encoded.astype(int) + trace.is_still
    assert encoded[:video].tolist() == [known[places[place]] for place in of_page]
    assert (encoded[video:] == 1).all()
    assert not entered[encoded == 0].any()
    assert 0 < board.cells_encoded == (encoded[:video] == 1).sum() < video
    assert 0 < board.cells_still == (encoded[:video] == 2).sum()


def test_what_a_question_looks_at_is_its_attention_in_the_dense_pass(asked, board):
    dense, pruned = asked.dense.answers.positions, asked.pruned.answers.positions
    for number, question in enumerate(board.questions):
        for layer in (0, board.layers - 1):
            attention = dense.attention[0][layer][number]
            there = attention[pruned.kept[0][layer]].sum() / attention.sum()
            assert question.covered[layer] == pytest.approx(there, abs=1e-3)
        assert question.covered[-1] < question.covered[0] <= 1
        for option in question.options:
            assert 0 <= option.pruned <= 1
            assert 0 <= option.dense <= 1
    text = next(question for question in board.questions if question.kind == "text")
    assert text.answer
    assert not text.options


def test_results_alone_say_what_was_asked_when_job_and_questions_are_gone(made, clips, tmp_path, monkeypatch):
    """As `docs/ask.md` shows it; a question set that was changed since is not what is asked again."""
    shutil.copytree(made.parent / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    shown = [command for command in commands_of(ROOT / "docs/ask.md") if command[0] in ("query", "explain")]
    assert [command[0] for command in shown] == ["query", "explain"]
    for command in shown:
        words = [clips["silent.mp4"][:12] if word == "CLIP_ID" else word for word in command]
        done = cli(*words, *(["--json", "p.json"] if command[0] == "explain" else []))
        assert done.exit_code == 0, done.output
    given = json.loads((tmp_path / "p.json").read_text())
    assert given["changes"] == []
    assert given["bytes"] == (tmp_path / "page.html").stat().st_size < PAGE_BYTES
    kept = recall(find_clip("results", clips["silent.mp4"]).store, select_recipe(made))
    assert kept.variables == {"colour": "green"}
    assert [question.id for question in kept.question_set.questions] == ["colour", "sound", "shown", "times", "said"]


def test_results_without_that_record_need_the_job_file(made, clips, tmp_path):
    shutil.copytree(made.parent, tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "results" / "journal" / "recipes")
    done = cli("explain", clips["silent.mp4"], tmp_path / "old" / "results", "-o", tmp_path / "page.html")
    assert done.exit_code == 2
    assert "omnidrop explain CLIP_ID JOB.yaml" in done.stderr
    found = find_clip(str(tmp_path / "old" / "results"), clips["silent.mp4"])
    again = ask_again(found, load_job(tmp_path / "old" / "job.yaml"))
    assert again.changes == ()
    assert facts(again).sound is None


def test_a_server_that_only_the_results_name_is_not_asked(made, clips, tmp_path):
    """It would get requests signed with the credentials of whoever looks at somebody else's results."""
    shutil.copytree(made.parent / "results", tmp_path / "strangers")
    (recipe,) = (tmp_path / "strangers" / "journal" / "recipes").iterdir()
    given = json.loads(recipe.read_text())
    given["archive"] |= {"uri": "s3://videos", "endpoint_url": "http://127.0.0.1:9"}
    recipe.write_text(json.dumps(given))
    done = cli("explain", clips["silent.mp4"], tmp_path / "strangers", "-o", tmp_path / "page.html")
    assert done.exit_code == 2
    assert "add --endpoint-url http://127.0.0.1:9" in done.stderr
    found = find_clip(str(tmp_path / "strangers"), clips["silent.mp4"])
    gone = replace(found, meta=replace(found.meta, media=replace(found.meta.media, uri=str(tmp_path / "gone.mp4"))))
    with pytest.raises(CannotExplain, match="cannot be decoded again: media_missing"):
        ask_again(gone, endpoint_url="http://127.0.0.1:9")


def test_what_is_not_as_it_was_is_said(asked, clips, made):
    stored = find_clip(load_job(made).output, clips["tone.wav"])
    then = {name: dict(answer) for name, answer in stored.answers.items()}
    then["shown"] |= {"answer": "perhaps"}
    then["colour"] |= {"probability": then["colour"]["probability"] / 2}
    then["sound"] |= {"question": "Which sound?"}
    then["mood"] = then.pop("times")
    meta = replace(stored.meta, asked=replace(stored.meta.asked, weights_hash="0" * 64))
    again = ask_again(replace(stored, answers=then, meta=meta))
    said = " | ".join(again.changes)
    for expected in (
        "the weights of tiny are not those that answered then",
        "shown: the stored answer is perhaps, now it is",
        "colour: its probability was",
        "sound was asked as 'Which sound?' then",
        "times was not asked then",
        "mood was asked then, and is not now",
    ):
        assert expected in said
    of_sound = facts(again)
    assert of_sound.images == ()
    assert of_sound.sound is not None
    assert b"perhaps" in render(of_sound)


def test_a_changed_file_is_not_explained_as_the_one_that_was_asked(made, clips, tmp_path):
    shutil.copytree(made.parent, tmp_path / "moved")
    stored = find_clip(str(tmp_path / "moved" / "results"), clips["silent.mp4"])
    path = tmp_path / "moved" / "archive" / "silent.mp4"
    os.utime(path, (1, 1))
    media = replace(stored.meta.media, uri=str(path))
    with pytest.raises(CannotExplain, match="cannot be decoded again: media_changed"):
        ask_again(replace(stored, meta=replace(stored.meta, media=media)))


def test_pruned_for_each_question_there_is_a_keep_set_for_each(made, clips):
    job = load_job(made, {"pruning.mode": "per_question"})
    stored = find_clip(job.output, clips["silent.mp4"])
    alone = facts(ask_again(replace(stored, store=Forgetful(stored.store)), job))
    assert [question.pass_number for question in alone.questions] == list(range(5))
    assert len(alone.video_kept) == 5
    dense = facts(
        ask_again(
            replace(stored, store=Forgetful(stored.store)),
            load_job(made, {"pruning.mode": "dense", "pruning.retained_ratio": None}),
        )
    )
    assert all(share == 1 for question in dense.questions for share in question.covered)


class Forgetful:
    """A store whose results do not say what was asked."""

    def __init__(self, store):
        self.store = store

    def exists(self, key):
        return False


def select_recipe(job):
    return select(job, "SELECT recipe_hash FROM media LIMIT 1")[0][0]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_ids_that_name_no_clip_are_refused_with_what_to_do(made, clips):
    output = load_job(made).output
    for wrong, message in (
        ("nonsense", "is not a valid clip id.*SELECT clip_id"),
        ("0" * 32, "holds no clip whose id begins with.*SELECT clip_id"),
        ("' OR 1=1", "is not a valid clip id"),
    ):
        with pytest.raises(ClipUnknown, match=message):
            find_clip(output, wrong)
    done = cli("explain", "0" * 8, made)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr


def test_a_damaged_record_is_named():
    with pytest.raises(JournalError, match=r"here is damaged \(KeyError\); run `omnidrop index` with the job"):
        decode_recipe(b"{}", where="here")
    with pytest.raises(JournalError, match="here is damaged"):
        decode_recipe(b"not json", where="here")


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_whole_in_itself_and_small(page, board):
    assert len(page.encode()) < PAGE_BYTES
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)
    assert "<img src=x" not in page
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["media_key"] == NASTY
    assert zlib.decompress(b64decode(data["maps"])) == board.maps
    assert data["questions"][0]["text"].endswith("</script><!--")


def test_pictures_of_a_long_clip_stay_small():
    noise = np.random.default_rng(0).integers(0, 255, (8, 200, 300, 3), np.uint8)
    small = thumbnails(noise, 60_000)
    assert len(small) == 8
    assert sum(map(len, small)) <= 60_000
    assert list(evenly(5, 9)) == [0, 1, 2, 3, 4]
    assert len(set(evenly(1000, 96))) == 96


def test_the_page_of_a_long_noisy_clip_is_still_small(board):
    chance = np.random.default_rng(0)
    images = thumbnails(chance.integers(0, 255, (24, 120, 160, 3), np.uint8), PICTURE_BYTES)
    sound = spectrogram_picture(chance.standard_normal(16_000 * 60).astype(np.float32))
    noise = chance.integers(0, LEVELS + 1, MAP_BYTES, np.uint8).tobytes()
    whole = images * (PICTURE_BYTES // sum(map(len, images)))
    assert len(render(replace(board, images=whole, sound=sound, maps=noise))) < PAGE_BYTES


def test_the_page_works_in_a_browser(page, board, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page)
    shots = os.environ.get("STORYBOARD_SHOTS")
    with browser() as chromium:
        for scheme, width in (("light", 1280), ("dark", 390)):
            context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
            tab = context.new_page()
            problems: list[str] = []
            tab.on("console", lambda message, to=problems: to.append(message.text) if message.type == "error" else None)
            tab.on("pageerror", lambda error, to=problems: to.append(str(error)))
            tab.on(
                "request",
                lambda one, to=problems: to.append(one.url) if not one.url.startswith(("file:", "data:")) else None,
            )
            tab.goto(file.as_uri())
            tab.wait_for_selector("body[data-ready=yes]")
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert tab.locator("#questions button").count() == 5
            assert tab.locator(".shot").count() == len(board.images)
            assert NASTY in tab.title()

            for layer in (0, board.layers - 1):
                tab.locator("#layer").fill(str(layer))
                assert still_there(tab) == round(
                    board.video_kept[0][layer] * board.patches * board.rows * board.columns
                )
            share = tab.locator("#readout b").last.inner_text()
            tab.locator("#questions button").nth(1).click()
            assert tab.locator("#question").inner_text() == "Which sound is heard first?"
            assert tab.locator("#verdict").inner_text().startswith("The answer is ")
            assert tab.locator("#readout b").last.inner_text() != share
            tab.locator(".views span").get_by_text("Looked at").click()
            assert "dropped" in tab.locator("#legend").inner_text()
            assert still_there(tab) == 0  # everything is dimmed or coloured
            if shots:
                tab.screenshot(path=f"{shots}/{scheme}-{width}.png", full_page=True)
            assert not problems
            context.close()


def still_there(tab):
    """Picture tokens that are shown without a veil."""
    return tab.evaluate(
        "[...document.querySelectorAll('.shot canvas')].map(c => c.getContext('2d').getImageData(0, 0, c.width, "
        "c.height).data).reduce((sum, d) => sum + d.filter((v, i) => i % 4 === 3 && v === 0).length, 0)"
    )
