"""The toy worlds: deterministic clips whose truth is what pixels and samples show, and questions with one answer."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop.errors import UserError
from omnidrop.questions import Boolean, Choice, Number
from pipeline.questions.question_set import load_question_set
from pipeline.toy_world import (
    COLOURS,
    SHAPES,
    SOUNDS,
    Event,
    Format,
    Truth,
    events_of,
    format_of,
    questions_of,
    read_truth,
    render_clip,
    write_truth,
)
from pipeline.toy_world.questions import timeline_of
from pipeline.toy_world.render import SAMPLE_RATE, Painter, distance, sound, wave_of
from pipeline.toy_world.speech import bank, spoken_wave
from pipeline.toy_world.truth import VOICES, WORDS, TruthError
from pipeline.toy_world.world import PAUSE_S, SLOT_S, WORLDS, generator_of
from pipeline.toy_world.writing import set_lines, shipped_faces
from workers.media.clip_reader import decode_clip
from workers.media.probing import probe
from workers.records import Clip, DecodeSettings

SMALL = Format("mp4", "libx264", "aac", 160, 112, 10)


@given(seed=st.integers(0, 1 << 40))
@settings(max_examples=50, deadline=None)
def test_v1_events_follow_one_another_and_last_two_seconds(seed):
    length_s, events = events_of("v1", seed)
    assert 8 <= length_s <= 32
    assert 1 <= len(events) <= 6
    assert events_of("v1", seed) == (length_s, events)
    ends = [0.0, *(event.end for event in events)]
    for event, before in zip(events, ends, strict=False):
        assert event.start >= before - 2e-3
        assert event.end - event.start >= 2 - 2e-3
        assert event.end <= length_s + 2e-3


@given(seed=st.integers(0, 1 << 40))
@settings(max_examples=30, deadline=None)
def test_v2_shows_three_to_five_shapes_at_once_in_places_of_their_own(seed):
    length_s, events = events_of("v2", seed)
    for time_s in np.arange(0.6, length_s - 1.1, 0.37):
        shown = [e for e in events if e.shape and e.start <= time_s < e.end]
        assert 3 <= len(shown) <= 5
        assert len({e.place for e in shown}) == len(shown)
        assert sum(e.sound is not None and e.start <= time_s < e.end for e in events) <= 1


@given(seed=st.integers(0, 1 << 40))
@settings(max_examples=30, deadline=None)
def test_v3_says_words_within_shapes_and_pages_and_pauses_between_them(seed):
    length_s, events = events_of("v3", seed)
    shown, said = [e for e in events if e.shape or e.lines], [e for e in events if e.word]
    written = [word for e in shown for word in e.lines]
    assert len(set(written)) == len(written)
    assert all(1 <= len(e.lines) <= 3 for e in shown if not e.shape)
    assert all(e.start == int(e.start) and 2 <= e.end - e.start <= 3 for e in shown)
    assert all(one.end <= next_.start for one, next_ in pairwise(shown))
    assert all(next_.start - one.end >= PAUSE_S - 0.002 for one, next_ in pairwise(said))
    assert all(sum(s.start <= e.start and e.end <= s.end for s in shown) == 1 for e in said)
    assert max(e.end for e in events) <= length_s


def test_the_bank_has_every_word_in_several_takes_of_both_voices():
    takes = bank()
    assert (takes.spans[:, 1] - takes.spans[:, 0]).max() <= SLOT_S[0] * SAMPLE_RATE
    for word in range(len(WORDS)):
        for voice in range(len(VOICES)):
            those = takes.spans[(takes.words == word) & (takes.voices == voice)]
            assert len(those) >= 6
            for start, end in those:
                inside, around = (
                    takes.wave[start:end],
                    np.r_[takes.wave[start - 800 : start], takes.wave[end : end + 800]],
                )
                assert np.std(inside) > 10 * np.std(around)


def test_v3_words_are_heard_within_their_events_and_nowhere_else():
    for seed in range(4):
        length_s, events = events_of("v3", seed)
        wave, placed = spoken_wave(events, length_s, generator_of("v3", seed, "sound"))
        assert len(wave) == length_s * SAMPLE_RATE
        assert [one.event for one in placed] == [e for e in events if e.word]
        silent = np.ones(len(wave), bool)
        for one in placed:
            assert one.event.start - 0.001 <= one.start / SAMPLE_RATE < one.end / SAMPLE_RATE <= one.event.end + 0.001
            # The room's echo outlives the word.
            silent[one.start : one.end + round(0.4 * SAMPLE_RATE)] = False
        quiet = np.std(wave[silent])
        assert all(np.std(wave[one.start : one.end]) > 2.5 * quiet for one in placed)


@pytest.mark.parametrize(("height", "width"), [(112, 196), (196, 112), (140, 140), (240, 426)])
def test_a_page_is_still_and_shows_its_lines_below_each_other_where_the_truth_says(height, width):
    words = ("hammer", "monkey", "fish")
    for seed in range(len(shipped_faces().spans)):
        painter = Painter("v3", [Event(1, 3, lines=words)], np.random.default_rng(seed))
        painter.grain = 0.0
        page = painter.frame(1.0, height, width).astype(float)
        assert (page == painter.frame(2.9, height, width)).all()
        # How far pixels are from the paper towards the ink.
        ink, paper = (np.asarray(colour) for colour in (painter.pages[0].ink, painter.pages[0].paper))
        inked = ((page - paper) @ (ink - paper) / ((ink - paper) @ (ink - paper))) > 0.45
        assert not (np.abs(painter.frame(0.5, height, width).astype(float) - page) < 1).all()
        below = 0
        for one in set_lines(painter.pages[0], painter.faces, height, width):
            left, top, right, bottom = (round(edge) for edge in one.letters)
            assert 0 <= left < right <= width
            assert below <= top < bottom <= height
            assert inked[top:bottom, left:right].mean() > 0.08
            inked[one.top : one.top + one.height, one.left : one.left + one.width] = False
            below = bottom
        assert inked.mean() < 0.001


def test_the_faces_that_ship_tell_all_words_apart():
    faces = shipped_faces()
    for face in range(len(faces.spans)):
        pictures = [faces.word(face, word) for word in WORDS]
        assert all(20 < picture.shape[1] < 6 * 44 and picture.max() > 200 for picture in pictures)
        assert len({picture.tobytes() for picture in pictures}) == len(WORDS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_pixels_show_the_shape_in_its_colour_inside_the_frame(shape, colour):
    event = Event(0, 4, shape, colour, None)
    for seed in range(4):
        painter = Painter("v1", [event], generator_of("v1", seed, "picture"))
        frame = painter.frame(1.5, 120, 160).astype(int)
        lit = (frame > 75).any(-1)
        assert not np.concatenate([lit[0], lit[-1], lit[:, 0], lit[:, -1]]).any()
        rows, columns = np.nonzero(lit)
        # Half-size is 13 to 24 % of the shorter side, corners of turned shapes stand out.
        assert 0.2 * 120 < max(np.ptp(rows), np.ptp(columns)) < 0.48 * 120 * 1.5
        middle = np.median(frame[lit], axis=0)
        red, green, blue = middle
        meant = {
            "red": red > 150 and green < 80 and blue < 80,
            "green": green > 100 and red < 90 and blue < 90,
            "blue": blue > 150 and red < 90 and green < 120,
            "yellow": red > 170 and green > 170 and blue < 90,
            "purple": red > 80 and blue > 90 and green < 90,
            "white": min(red, green, blue) > 200,
        }
        assert meant[colour]
        assert frame[~lit].max() <= 75
        outside = painter.frame(4.5, 120, 160)
        assert outside.max() < 60


def test_every_shape_fills_its_own_share_of_its_box():
    x = np.linspace(-1, 1, 201, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, 201, dtype=np.float32)[:, None]
    filled = {shape: float((distance(shape, x, y, 0.5) < 0).mean()) for shape in SHAPES}
    assert filled["circle"] == pytest.approx(np.pi / 4, abs=0.02)
    assert filled["square"] == pytest.approx(0.92**2, abs=0.02)
    assert 0.35 < filled["triangle"] < 0.5
    assert 0.45 < filled["cross"] < 0.6


@pytest.mark.parametrize("name", SOUNDS)
def test_spectrum_is_that_of_the_sound(name):
    for seed in range(4):
        wave = sound(name, 2 * SAMPLE_RATE, np.random.default_rng(seed))
        frames = wave[: len(wave) // 800 * 800].reshape(-1, 800)
        spectrum = np.abs(np.fft.rfft(frames * np.hanning(800), axis=1)) ** 2
        hertz = np.fft.rfftfreq(800, 1 / SAMPLE_RATE)
        peaks = hertz[spectrum.argmax(1)]
        loud = spectrum.sum(1) > 0.05 * spectrum.sum(1).max()
        if name == "low tone":
            assert (np.abs(peaks[loud] - 220) <= 60).all()
        elif name == "high tone":
            assert ((peaks[loud] > 1700) & (peaks[loud] < 2700)).all()
        elif name in ("rising sweep", "falling sweep"):
            steps = np.sign(np.diff(peaks[2:-2]))
            up, down = (steps > 0).sum(), (steps < 0).sum()
            assert (up > 3 * down) if name == "rising sweep" else (down > 3 * up)
        elif name == "noise":
            assert (spectrum[loud].mean(0) > 0).all()
            assert np.std(peaks) > 300
        else:
            energy = np.convolve(wave**2, np.ones(160), "same")
            starts = np.nonzero((energy[1:] > 0.5) & (energy[:-1] <= 0.5))[0]
            clicks = 1 + (np.diff(starts) > 800).sum()
            assert 13 <= clicks <= 19


def test_sound_stays_within_its_event():
    event = Event(1.0, 3.0, None, None, "noise")
    for seed in range(6):
        wave = wave_of([event], 4.0, np.random.default_rng(seed))
        assert len(wave) == 4 * SAMPLE_RATE
        inside, before, after = wave[16_400:47_600], wave[:16_000], wave[48_000:]
        assert np.sqrt((inside**2).mean()) > 10 * max(np.sqrt((before**2).mean()), np.sqrt((after**2).mean()), 1e-4)


def test_a_file_decodes_to_its_truth_and_is_the_same_every_time(tmp_path):
    events = (Event(0, 2, "circle", "red", "high tone"), Event(2, 4, "square", "blue", None))
    one = render_clip(tmp_path / "one", "v1", 3, length_s=4, events=events, format=SMALL)
    two = render_clip(tmp_path / "two", "v1", 3, length_s=4, events=events, format=SMALL)
    assert one.path.name == "one.mp4"
    assert one.truth == Truth(events, "v1")
    assert one.path.read_bytes() == two.path.read_bytes()
    assert not list(tmp_path.glob(".*"))
    info = probe(one.path)
    media = decode_clip(one.path, info, Clip("c", 0, 0.0, 4.0), DecodeSettings(fps=2))
    assert media.frames is not None
    assert media.audio is not None
    early, late = media.frames[1].reshape(-1, 3).astype(int), media.frames[6].reshape(-1, 3).astype(int)
    assert early[early.sum(1).argmax()].argmax() == 0
    assert late[late[:, 2].argmax()].argmax() == 2
    spectrum = np.abs(np.fft.rfft(media.audio[4_000:20_000]))
    assert 1_700 < spectrum.argmax() < 2_700
    assert np.abs(media.audio[36_000:]).max() < 0.1 * np.abs(media.audio[:32_000]).max()


@pytest.mark.parametrize(
    "codec", [("webm", "libvpx", "libopus"), ("mkv", "libx264", "pcm_s16le"), ("mp4", "mpeg4", None)]
)
def test_codecs_and_containers(tmp_path, codec):
    clip = render_clip(tmp_path / "clip", "v2", 1, length_s=2, format=Format(*codec, 96, 112, 10))
    info = probe(clip.path)
    assert info.duration_s == pytest.approx(2, abs=0.15)
    assert info.has_audio == (codec[2] is not None)
    assert (info.width, info.height) == (96, 112)


def test_formats_cover_the_codecs_and_depend_on_the_seed_alone():
    drawn = [format_of("v1", seed) for seed in range(200)]
    assert drawn == [format_of("v1", seed) for seed in range(200)]
    assert {f.video_codec for f in drawn} == {"libx264", "mpeg4", "libvpx", "libvpx-vp9"}
    assert {f.container for f in drawn} == {"mp4", "mkv", "webm"}
    assert any(f.width < f.height for f in drawn)
    assert any(f.width == f.height for f in drawn)


TWO = (
    Event(0, 3, "circle", "red", "noise"),
    Event(3, 6, "square", "blue", "clicks"),
    Event(6, 8, None, None, "low tone"),
)


def test_questions_have_the_right_answers():
    right = {one.question.text: one.right for one in questions_of(TWO)}
    expected = {
        "What colour is the circle?": "red",
        "Which shape is blue?": "square",
        "Which sound is heard while the square is shown?": "clicks",
        "Which colour is shown while the noise is heard?": "red",
        "Which shape is shown right after the circle?": "square",
        "Which sound is heard last?": "low tone",
        "Which shape is shown last?": "square",
        "How many times does a shape appear?": "2",
        "How many times does a sound play?": "3",
    }
    assert expected.items() <= right.items()
    assert timeline_of(TWO) == "red circle with noise, then blue square with clicks, then low tone alone"


SPOKEN = (
    Event(0, 3, "circle", "red"),
    Event(0.4, 1.0, word="river", voice="low"),
    Event(1.6, 2.2, word="zebra", voice="high"),
    Event(3, 5, "square", "blue"),
    Event(3.5, 4.2, word="book", voice="low"),
    Event(5, 7, "cross", "green"),
    Event(7, 10, lines=("river", "train")),
    Event(7.2, 7.8, word="river", voice="low"),
    Event(10, 12, lines=("lemon",)),
)


def test_questions_about_words_have_the_right_answers():
    right = {one.question.text: one.right for seed in range(60) for one in questions_of(Truth(SPOKEN, "v3"), seed=seed)}
    expected = {
        "Which word is said first?": "river",
        "Which word is said last?": "river",
        "Is the word zebra said?": "yes",
        "Is the word table said?": "no",
        "Is the word zebra said by a low or a high voice?": "high",
        "Which word is said by the high voice?": "zebra",
        "Which word is said while the square is shown?": "book",
        "Which word is said first while the circle is shown?": "river",
        "Which word is said last while the red shape is shown?": "zebra",
        "Which word is said while the cross is shown?": "none",
        "How many words are said?": "4",
        "How often is the word river said?": "2",
        "How often is the word zebra said?": "1",
        "Which word is written in line 2?": "train",
        "In which line is the word river written?": "1",
        "Is the word lemon written?": "yes",
        "Is the word zebra written?": "no",
        "Is the word river said and also written?": "yes",
        "Is the word book said and also written?": "no",
        "Is the word train said and also written?": "no",
    }
    assert expected.items() <= right.items()
    # Two words by one voice, two while one shape is shown, two pages' first lines: no one answer.
    assert "Which word is written in line 1?" not in right
    assert "Which word is said by the low voice?" not in right
    assert "Which word is said while the circle is shown?" not in right


def test_a_word_that_a_border_cuts_is_not_asked_about(tmp_path):
    write_truth(tmp_path / "truth.json", {"a.mp4": Truth(SPOKEN, "v3")})
    assert read_truth(tmp_path / "truth.json") == {"a.mp4": Truth(SPOKEN, "v3")}
    assert [e.word for e in Truth(SPOKEN, "v3").within(0.5, 5).events if e.word] == ["zebra", "book"]
    with pytest.raises(TruthError, match="come together"):
        Event(0, 1, word="book")
    with pytest.raises(TruthError, match="word must be one of"):
        Event(0, 1, word="galaxy", voice="low")


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"shape": "circle", "colour": "red", "lines": ["book"]}, "a page fills the picture"),
        ({"lines": ["book", "book"]}, "different words, got book, book"),
        ({"lines": ["book", "fish", "train", "zebra"]}, "1 to 3 lines"),
        ({"lines": ["galaxy"]}, "each of the lines must be one of book, .*, got 'galaxy'"),
        ({"lines": "book"}, "'lines' must be a list of words, got 'book'"),
    ],
)
def test_a_page_that_no_one_could_read_is_refused(event, says, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps({"a.mp4": [{"start": 0, "end": 2, **event}]}))
    with pytest.raises(TruthError, match=rf"'a.mp4', event 1: .*{says}"):
        read_truth(tmp_path / "truth.json")


@given(seed=st.integers(0, 1 << 30), world=st.sampled_from(WORLDS))
@settings(max_examples=40, deadline=None)
def test_every_question_can_be_answered_rightly_and_only_once(seed, world):
    _, events = events_of(world, seed)
    asked = questions_of(Truth(events, world), seed=seed)
    assert len({one.question.text for one in asked}) == len(asked) == len({one.question.id for one in asked})
    for one in asked:
        assert isinstance(one.question.answer, Choice | Boolean | Number)
        assert one.right in one.question.answer.rendered()
        assert 0 < one.guess <= 1
    said = [(one.task, one.right) for one in asked if isinstance(one.question.answer, Boolean)]
    for task in {task for task, _ in said} if world == "v3" else {None}:
        those = [right for of, right in said if task in (None, of)]
        assert those.count("yes") == those.count("no")
    few = questions_of(Truth(events, world), seed=seed, most=6)
    assert len(few) <= 6
    assert {one.question.text for one in few} <= {one.question.text for one in asked}


def test_ambiguous_questions_are_not_asked():
    twice = (Event(0, 3, "circle", "red", "noise"), Event(3, 6, "circle", "blue", "clicks"))
    texts = {one.question.text for one in questions_of(twice)}
    assert "What colour is the circle?" not in texts
    assert "Which sound is heard while the circle is shown?" not in texts
    assert "Which shape is shown right after the circle?" not in texts
    assert "Which sound is heard while the red shape is shown?" in texts


def test_a_strangers_truth_file_is_read(tmp_path):
    file = tmp_path / "truth.json"
    file.write_text(
        json.dumps(
            {
                "a.mp4": {
                    "events": [
                        {"start": 4, "end": 7, "shape": None, "colour": None, "sound": "rising"},
                        {"start": 0, "end": 4.0, "shape": "Circle", "color": "red", "sound": "silence"},
                        {"start": 7, "end": 8, "shape": None, "colour": None, "sound": None},
                    ]
                }
            }
        )
    )
    truth = read_truth(file)["a.mp4"]
    assert truth.events == (Event(0, 4, "circle", "red", None), Event(4, 7, None, None, "rising sweep"))
    write_truth(file, {"a.mp4": truth})
    assert read_truth(file) == {"a.mp4": truth}
    (cut,) = truth.within(3.8, 6.0).events
    assert (cut.start, cut.end) == pytest.approx((0.2, 2.2))
    assert cut.sound == "rising sweep"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"start": 0, "end": 2, "shape": "hexagon", "colour": "red"}, "hexagon"),
        ({"start": 2, "end": 1, "shape": "circle", "colour": "red"}, "start < end"),
        ({"end": 1, "shape": "circle", "colour": "red"}, "'start'"),
        ({"start": 0, "end": 2, "shape": "circle"}, "colour"),
    ],
)
def test_a_wrong_truth_file_says_where_and_what(tmp_path, event, said):
    file = tmp_path / "truth.json"
    file.write_text(json.dumps({"a.mp4": {"events": [event]}}))
    with pytest.raises(TruthError, match=r"a\.mp4") as raised:
        read_truth(file)
    assert said in str(raised.value)


def test_unknown_worlds_and_crowded_clips_are_refused():
    with pytest.raises(UserError, match="v4"):
        events_of("v4", 0)
    with pytest.raises(UserError, match="do not fit"):
        events_of("v1", 0, length_s=8, count=5)


def test_the_built_in_question_set_is_answerable_for_every_clip():
    questions = load_question_set("toy-world")
    assert questions.name == "toy-world"
    assert 8 <= len(questions.questions) <= 12
