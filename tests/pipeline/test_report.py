"""The report: its numbers are the tables', its page is whole in itself, small, safe, and works in a browser."""

from __future__ import annotations

import json
import random
import re
import zlib
from dataclasses import replace
from importlib import resources

import pytest
import s3fs
from playwright.sync_api import expect

from omnidrop.answers import Answer, ClipAnswers, Cost, LayerCount, PassCost, TraceCounts
from omnidrop.errors import UserError
from omnidrop.models.encoders import EncoderSettings, PatchPlan, encoder_notes
from omnidrop.questions import Boolean, Choice, Number, Question, Text
from pipeline.config.job import StorageConfig, load_job
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Journal
from pipeline.planning.open_job import open_job
from pipeline.records.run_record import RunRecord, RunResources, RunTime
from pipeline.report import formats
from pipeline.report.page import ANSWERS_BYTES, PAGE_BYTES, render
from pipeline.report.queries import gather
from pipeline.report.view_model import Audit, Interval, Run, Spent, stages
from pipeline.storage.store import open_store
from pipeline.tables import publish as publishing
from pipeline.tables.query import open_results, query
from tests.support import published_tables, rows
from tests.support.browser import browser
from tests.support.s3_server import s3_server
from tests.support.small_jobs import cli, run
from workers.records import ClipFailure, ClipResult, Media

QUESTIONS = (
    Question("activity", "What happens?", Choice(("lecture", "discussion", "exercise", "pause", "demonstration"))),
    Question("language", "Which language is spoken?", Choice(("German", "English", "French", "none"))),
    Question("mood", "How does the speaker sound?", Choice(("calm", "excited", "angry"))),
    Question("music", "Is music heard?", Boolean()),
    Question("people", "How many people are seen?", Number(0, 30, unit="people")),
    Question("said", "What is said, in one sentence?", Text(40)),
    Question("slides", "Are slides shown?", Boolean()),
    Question("writing", "Is somebody writing on the board?", Boolean()),
)
VALUES = {Boolean: (False, True), Number: (0.0, 1.0, 2.0, 12.0)}
FOLDERS = ("physics", "law", "medicine", "history")
ENCODED = tuple(encoder_notes(PatchPlan((), (), cells=1_400, all_cells=4_000), None, EncoderSettings()))
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">{{ 7919 * 7907 }}\u202egpj"


def changing(chance, values):
    """Values that mostly stay as they are from clip to clip, as in real videos."""
    value = chance.choice(values)
    while True:
        if chance.random() > 0.85:
            value = chance.choice(values)
        yield value


def costed(clip, answers):
    """A clip's result at about the cost of 30 s in a model of 7 B."""
    shared = PassCost(5_200, 60_000_000_000_000 + clip.index * 10**10, 0, 24_000_000_000_000, 2 * 10**12, 300_000_000)
    dense = replace(shared, tokens=40_800, prefill_flops=8 * shared.prefill_flops)
    pruned = shared.prefill_flops * 36 // 100
    ran = replace(shared, prefill_flops=pruned, selection_flops=2 * 10**11, kv_bytes=100_000_000)
    layers = tuple(LayerCount(i, 750 * (28 - i) // 40, 4_000 * (28 - i) // 60) for i in range(28))
    traced = TraceCounts(750, 4_000, layers)
    cost = Cost(ran, dense, shared, 1.25, None)
    return ClipResult(clip, ClipAnswers(tuple(answers), cost, traced, ENCODED), 2.0, 60, 480_000, 1.0, 0.9, 1.3)


def made_up(clip, streams, chance):
    """Answers about one clip, some of them unreadable."""
    for question in QUESTIONS:
        if question.id == "said":
            # As hard to compress as words are: about 5 bits a letter.
            text = "".join(chance.choices("etaoinshrdlucmfwypvbgk      ", k=80))
            yield Answer("said", text, text)
        elif chance.random() < 0.002:
            yield Answer(question.id, None, "hm", error_class="answer_invalid")
        else:
            sure = 1 - chance.random() ** 2 * 0.6
            value = next(streams[question.id])
            text = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool | str) else f"{value:g}"
            yield Answer(question.id, value, text, sure, sure / 2)


def units_of(media, clips):
    """Work units with made-up outcomes, one per video, every hundredth clip in quarantine."""
    chance = random.Random(7)
    for number in range(media):
        name = f"{FOLDERS[number % 4]}/recording {number:04d}.mp4"
        unit = rows.unit(Media(f"{number:032x}", name, f"/archive/{name}", "e1", 1_000), clips=clips)
        streams = {
            q.id: changing(chance, VALUES.get(type(q.answer)) or q.answer.options) for q in QUESTIONS if q.id != "said"
        }
        outcomes = [
            ClipFailure(clip, "decode", "decode_failed", "no frames at all")
            if chance.random() < 0.01
            else costed(clip, made_up(clip, streams, chance))
            for clip in unit.clips
        ]
        yield replace(unit, questions=QUESTIONS), outcomes


def publish(folder, units, *, runs=5, asked=rows.ASKED):
    """Store units and publish them, through the real journal, index and table writer."""
    store = open_store(str(folder))
    journal, index = Journal(store), SavingsIndex(f"sqlite:///{folder}/index.sqlite")
    for number, (unit, outcomes) in enumerate(units):
        run_id = f"run-{number % runs}"
        stored = journal.commit(rows.meta(unit, run_id, asked), outcomes, unit.questions)
        journal.write_heads([rows.head(unit, asked=asked)], run_id)
        index.apply_heads([rows.head(unit, asked=asked)])
        index.apply_units([stored])
    for number in range(runs):
        at = f"2026-01-0{number + 1}T02:00:00+00:00"
        spent = {
            "time": RunTime(wall_s=1_000.0, decode_s=3_000.0, answer_s=700.0),
            "resources": RunResources(actors=("m on NVIDIA H100: 9 clips",)),
        }
        journal.write_run(RunRecord(f"run-{number}", asked.job, "r", {}, at, status="complete", **spent))
    publishing.publish(store, journal, index)
    index.close()
    return folder


def report_of(folder, job=None, budget_bytes=ANSWERS_BYTES):
    return gather(str(folder), StorageConfig(), job, budget_bytes=budget_bytes)


def unpacked(report):
    return json.loads(zlib.decompress(report.explorer.data, wbits=31))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Results of 2,500 clips in 25 videos, 8 questions each: 10,000 would take 15 CPU s to store."""
    folder = tmp_path_factory.mktemp("large")
    return publish(folder, units_of(25, 100))


@pytest.fixture(scope="module")
def large_report(large):
    return report_of(large)


@pytest.fixture(scope="module")
def large_page(large):
    page = large / "report.html"
    result = cli("report", large, "-o", page, "--usd-per-gpu-hour", "2.5")
    assert result.exit_code == 0, result.output
    return page


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_the_numbers_of_a_real_job_are_those_of_its_index(job, tmp_path):
    run(job)
    result = cli("report", job, "-o", tmp_path / "report.html", "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    said = json.loads((tmp_path / "report.json").read_text())
    parts = open_job(load_job(job))
    totals = parts.index.totals("test")
    parts.index.close()
    assert said["saved_against_dense_shared"] == pytest.approx(totals.saved_against_dense_shared)
    assert said["saved_against_dense"] == pytest.approx(totals.saved_against_dense)
    assert (said["clips"], said["answers"], said["answers_in_page"]) == (totals.clips, 8, 8)

    report = report_of(tmp_path / "results")
    assert report.kept.ratio == pytest.approx(totals.retained_ratio)
    by_layer = [a for a, _ in report.kept.layers], [v for _, v in report.kept.layers]
    assert sum(by_layer[0]) / len(by_layer[0]) == pytest.approx(report.kept.audio)
    assert sum(by_layer[1]) / len(by_layer[1]) == pytest.approx(report.kept.video)
    assert sum(run.spent.clips for run in report.runs) == sum(c.spent.clips for c in report.collections) == totals.clips
    page = (tmp_path / "report.html").read_text()
    assert formats.percent(totals.saved_against_dense_shared) in page
    # The wording of this question names the file it is asked of.
    assert [(q.question_id, q.asked, q.wordings) for q in report.questions] == [("heard", 4, 1), ("shape", 4, 2)]
    # What failed, with the command that does it again.
    assert f"omnidrop retry {job} --error-class not_media" in page
    # Run on a CPU: no GPU hours, no money, and no seconds for what was never run.
    assert report.gpu_s is None
    assert "GPU hours" not in page
    assert "not timed" in page


def test_what_is_measured_on_gpus_is_shown_in_hours_and_money(large_report, large_page):
    page, clips = large_page.read_text(), large_report.clips
    assert formats.hours(clips * 1.25) in page
    assert formats.dollars(clips * 1.25 / 3600 * 2.5) in page
    assert page.count("not timed") == 2 * 3  # two unpruned ways: time, hours, money


def test_an_audit_fills_the_band_and_names_agreement(large_report):
    report = large_report
    assert "Not audited yet" in render(report).decode()
    audit = Audit(100, Interval(0.5, 0.4, 0.6), (("music", 100, Interval(0.97, 0.93, 0.99)),))
    page = render(replace(report, audit=audit)).decode()
    assert "Not audited yet" not in page
    seconds = report.ways[0].model_s
    assert (
        f"{formats.seconds(seconds / 0.5)} ({formats.seconds(seconds / 0.6)} to {formats.seconds(seconds / 0.4)})"
        in page
    )
    assert "93 % to 99 %" in page


def one_run(wall_s, decode_s, answer_s, actors=1):
    return Run("r", "2026-01-01", "complete", wall_s, decode_s, answer_s, ("m",) * actors, Spent(1, 1, 1, 1, answer_s))


@pytest.mark.parametrize(
    ("runs", "bottleneck", "busy"),
    [
        ([one_run(100, 500, 90)], "model", 0.9),
        ([one_run(100, 500, 20)], "decoding", 0.2),
        ([one_run(100, 500, 180, actors=4)], "decoding", 0.45),
        ([one_run(100, 500, 360, actors=4)], "model", 0.9),
        # Even one after the other, decoding and answering would fill a tenth of the time.
        ([one_run(100, 5, 5)], "overhead", 0.05),
        # A run that found nothing new says nothing about where time goes.
        ([one_run(100, 500, 90), one_run(10_000, 0, 0)], "model", 0.9),
    ],
)
def test_the_bottleneck_is_named(runs, bottleneck, busy):
    found = stages(runs)
    assert (found.bottleneck, found.model_busy) == (bottleneck, pytest.approx(busy))


def test_a_job_in_which_everything_failed_has_a_page(tmp_path):
    unit = rows.unit(rows.media())
    publish(tmp_path, [(unit, [ClipFailure(clip, "decode", "decode_failed", "no") for clip in unit.clips])])
    page = render(report_of(tmp_path)).decode()
    assert "Nothing was answered yet" in page
    assert "decode_failed" in page


def test_seconds_in_which_clips_overlap_count_once(tmp_path):
    yes = {"night": ("boolean", "yes", 0.9)}
    published_tables.publish(
        tmp_path, {"a.mp4": [(0, 4, yes), (2, 6, yes), (3, 5, yes), (8, 9, yes)], "b.mp4": [(0, 4, yes)]}
    )
    assert report_of(tmp_path).answered_s == 7 + 4


def test_one_job_of_several_is_chosen(tmp_path):
    for name in ("first", "second"):
        unit = rows.unit(rows.media(), job=name, clips=1 if name == "first" else 2)
        publish(tmp_path, [(unit, rows.outcomes(unit))], asked=replace(rows.ASKED, job=name))
    with pytest.raises(UserError, match="--job: first, second"):
        report_of(tmp_path)
    with pytest.raises(UserError, match="no job 'third'"):
        report_of(tmp_path, "third")
    assert [report_of(tmp_path, name).clips for name in ("first", "second")] == [1, 2]


def test_results_in_a_bucket_make_the_same_page(large, large_report, tmp_path):
    with s3_server("results") as endpoint:
        filesystem = s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True)
        filesystem.put(str(large / "tables"), "results/large/tables", recursive=True)
        result = cli("report", "s3://results/large", "--endpoint-url", endpoint, "-o", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    expected = render(replace(large_report, uri="s3://results/large"))
    assert (tmp_path / "report.html").read_bytes() == expected


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (formats.quantity(999_999, "B"), "1 MB"),
        (formats.quantity(74_369_488_384, "FLOP"), "74.4 GFLOP"),
        (formats.percent(0.9996), "99 %"),
        (formats.percent(1.0), "100 %"),
        (formats.seconds(59.6), "1 min"),
        (formats.minute("2026-11-23T01:37:00+00:00"), "23 Nov 2026, 01:37 UTC"),
        (formats.minute(""), "–"),
        (formats.minute(None), "–"),
        (formats.seconds(7_505), "2 h 5 min"),
        (formats.seconds(0.42), "0.42 s"),
        (formats.hours(14_832_000), "4,120 h"),
        (formats.dollars(1_234.5), "$1,234"),
        (formats.cut("a" * 241), "a" * 239 + "…"),
    ],
)
def test_numbers_read_as_people_write_them(shown, text):
    assert shown == text


# -- size and safety --------------------------------------------------------------------------------------------------


def test_what_was_never_encoded_is_said(large_report, large_page):
    kept = large_report.kept
    assert kept.cells_encoded / kept.cells == 0.35
    assert f"{formats.tokens(kept.cells)} cells of the picture were encoded" in large_page.read_text()


def test_ten_thousand_clips_fit_into_two_megabytes(large_report, large_page):
    """A quarter of them, so that four times their answers and the rest of the page, once, are less."""
    report = large_report
    assert 2_400 < report.clips < 2_500
    assert report.explorer.answers == report.answers == 8 * report.clips
    rest = large_page.stat().st_size - len(report.explorer.data) * 4 / 3  # base64
    assert 0 < rest < large_page.stat().st_size / 2
    assert rest + 4 * (large_page.stat().st_size - rest) < PAGE_BYTES
    videos = unpacked(report)["videos"]
    assert sum(len(video["start"]) for video in videos) == report.clips


def test_what_does_not_fit_is_left_out_and_said(large, large_report):
    report = report_of(large, budget_bytes=100_000)
    shown = report.explorer
    assert len(shown.data) < 100_100
    assert 0 < shown.media == len(unpacked(report)["videos"]) < shown.media_of == 25
    assert f"{shown.media} of 25 videos" in render(report).decode()
    # Sums are still over everything.
    assert report.ways == large_report.ways


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    """A video, a question, answers and an error that try to become part of the page."""
    folder = tmp_path_factory.mktemp("hostile")
    questions = (Question("text", HOSTILE, Text(40)), Question("choice", "Which?", Choice((HOSTILE, "other"))))
    unit = rows.unit(Media("a" * 32, HOSTILE, f"/archive/{HOSTILE}", "e1", 1), clips=3)
    failed = ClipFailure(unit.clips[2], "decode", "decode_failed", HOSTILE)
    outcomes = [costed(clip, (Answer(q.id, HOSTILE, HOSTILE, 0.5, 0.1) for q in questions)) for clip in unit.clips[:2]]
    asked = replace(rows.ASKED, model=HOSTILE, question_set=HOSTILE)
    publish(folder, [(replace(unit, questions=questions), [*outcomes, failed])], asked=asked)
    (folder / "report.html").write_bytes(render(report_of(folder), job_file=HOSTILE))
    return folder / "report.html"


def test_untrusted_text_is_text_in_the_page(hostile_page):
    page = hostile_page.read_text()
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert "62615533" not in re.sub(r'id="data">[^<]*', "", page).split("<main")[1].split("<script")[0]


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out_from_what_it_stands_on(dark):
    style = (resources.files("pipeline.report") / "page" / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = {}
    for block in blocks[: 2 if dark else 1]:
        colours |= dict(re.findall(r"--([\w-]+): (#\w{6}|var\(--\w+\))", block))
    value = {name: colours[text[6:-1]] if text.startswith("var") else text for name, text in colours.items()}
    pairs = [(text, ground) for text in ("ink", "muted", "accent", "bad") for ground in ("paper", "card")]
    pairs += [("label", name) for name in (*(f"c{i}" for i in range(8)), "yes", "other", "t0", "t1")]
    pairs += [("no-label", "no"), *(("n-low", f"n{i}") for i in range(3)), *(("n-high", f"n{i}") for i in (3, 4))]
    weak = {pair: round(contrast(value[pair[0]], value[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}


# -- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.fixture
def opened(chromium):
    """A function that opens a page; whatever it complains of, or asks of any network, fails the test."""
    contexts, complaints = [], []

    def open_page(path, **settings):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda asked: asked.url == path.as_uri() or complaints.append(f"request: {asked.url}"))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def selected(folder, sql):
    with open_results(str(folder), StorageConfig()) as connection:
        return list(query(connection, sql).rows)


def words(page, selector):
    return page.locator(selector).all_inner_texts()


def test_a_video_reads_as_a_timeline(large_page, opened):
    page = opened(large_page)
    # The first question with choices, ten videos; their ranges are those that `omnidrop query` finds.
    assert page.locator(".timeline").count() == 10
    first = words(page, ".timeline h4")[0]
    ranges = selected(
        large_page.parent,
        f"SELECT start_s, end_s, answer, clips FROM answer_ranges WHERE media_key = '{first}' "
        "AND question_id = 'activity' ORDER BY start_s",
    )
    strip = page.locator(".strip").first.locator(".range:not(.unreadable)")
    assert [range_.text_content() for range_ in strip.all()] == [answer for _, _, answer, _ in ranges]
    box = page.locator(".strip").first.bounding_box()
    second = strip.nth(1).bounding_box()
    assert (second["x"] - box["x"]) / box["width"] == pytest.approx(ranges[1][0] / 1000, abs=0.01)
    # A range says what, how sure and where; its link opens the moment in the video.
    strip.nth(1).hover()
    assert ranges[1][2] in page.locator("#tip").inner_text()
    strip.nth(1).click()
    link = page.locator(".moment a").first
    assert link.get_attribute("href").startswith("file:///archive/")
    assert link.get_attribute("href").endswith(f"#t={ranges[1][0]:g},{ranges[1][1]:g}")
    # The clip of the range that the model was least sure of, as `omnidrop explain` finds it.
    doubtful = selected(
        large_page.parent,
        f"SELECT clip_id FROM answers WHERE media_key = '{first}' AND question_id = 'activity' "
        f"AND start_s >= {ranges[1][0]} AND end_s <= {ranges[1][1]} ORDER BY probability LIMIT 1",
    )[0][0]
    assert page.locator(".moment code").first.inner_text() == f"omnidrop explain {doubtful[:12]}"
    # By keyboard too: one stop a strip, arrows within it.
    page.locator(".strip").first.locator("button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    second = page.locator(".strip").first.locator("button").nth(1)
    assert second.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.strip') !== document.querySelector('.strip')")
    # Clips without an answer are marked, not passed over.
    lost = selected(large_page.parent, "SELECT count(*) FROM quarantine WHERE question_id IS NULL")[0][0]
    page.select_option("#pick-question", "-1")
    assert page.locator(".strip").count() == 10 * len(QUESTIONS)
    assert lost > 0
    assert page.locator(".strip .lost").count() > 0


def test_answers_are_filtered_sorted_and_searched(large_page, opened):
    page, folder = opened(large_page), large_page.parent
    page.check("input[value=list]", force=True)
    where = "FROM answers WHERE question_id = 'language'"
    assert page.locator("#status").inner_text() == f"{selected(folder, f'SELECT count(*) {where}')[0][0]:,} answers"
    lowest = selected(folder, f"SELECT min(probability) {where}")[0][0]
    page.select_option("#pick-question", label="Which language is spoken?")
    assert words(page, "#shown td.saved")[0].strip() == f"{int(lowest * 100)} %"
    page.select_option("#pick-sort", "high")
    shown = [float(text.split()[0]) for text in words(page, "#shown td.saved")]
    assert shown == sorted(shown, reverse=True)
    assert shown[0] > 99
    assert len(shown) == 50
    page.click("#more")
    assert page.locator("#shown tbody tr").count() == 100
    page.select_option("#pick-answer", "French")
    french = selected(folder, f"SELECT count(*) {where} AND answer = 'French'")[0][0]
    assert page.locator("#status").inner_text() == f"{french:,} answers"
    assert set(words(page, "#shown td:nth-child(2)")) == {"French"}
    page.fill("#pick-text", "recording 0007")
    few = selected(folder, f"SELECT count(*) {where} AND answer = 'French' AND contains(media_key, '0007')")[0][0]
    expect(page.locator("#status")).to_have_text(f"{few} answers")
    assert all("recording 0007" in moment for moment in words(page, "#shown td:first-child"))
    page.fill("#pick-text", "nowhere to be found")
    expect(page.locator("#status")).to_have_text("0 answers")
    # What could not be read is there to be looked at.
    page.fill("#pick-text", "")
    page.select_option("#pick-answer", label="unreadable")
    unread = selected(folder, f"SELECT count(*) {where} AND error_class IS NOT NULL")[0][0]
    expect(page.locator("#status")).to_have_text(f"{unread} answers")
    assert "answer_invalid" in words(page, "#shown td:nth-child(2)")[0]
    # A bar of a question's card leads to what it counts.
    page.locator(".count[data-question=music][data-answer=yes]").click()
    music = selected(folder, "SELECT count(*) FROM answers WHERE question_id = 'music' AND answer = 'yes'")[0][0]
    assert page.locator("#status").inner_text() == f"{music:,} answers"
    assert page.input_value("#pick-answer") == "yes"


def test_the_page_follows_the_systems_colours(large_page, opened):
    def ground(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")

    assert min(ground(opened(large_page, color_scheme="light"))) > 230
    assert max(ground(opened(large_page, color_scheme="dark"))) < 40


@pytest.mark.parametrize("name", ["large_page", "hostile_page"])
def test_a_narrow_screen_needs_no_sideways_scrolling(name, request, opened):
    page = opened(request.getfixturevalue(name), viewport={"width": 340, "height": 700}, has_touch=True)
    page.select_option("#pick-question", "-1")
    page.locator(".range").first.tap()
    for view in ("timeline", "list"):
        page.check(f"input[value={view}]", force=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= 340, view


def test_untrusted_text_stays_text_in_the_browser(hostile_page, opened):
    page = opened(hostile_page)
    for view in ("timeline", "list"):
        page.check(f"input[value={view}]", force=True)
        page.select_option("#pick-question", "-1")
        assert HOSTILE in (page.locator("#shown").text_content() or "")
    page.locator(".range, #shown a").first.hover()
    assert page.title() != "owned"
    assert page.locator("img").count() == 0
    link = page.locator("#shown a").first.get_attribute("href")
    assert link.startswith("file:///archive/%3C/script%3E%3Cimg%20")
