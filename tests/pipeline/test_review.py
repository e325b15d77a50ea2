"""The loop of review: what comes first, the page in a browser, labels, and the probabilities that they vouch for."""

from __future__ import annotations

import csv
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from jobs._shared.results import find_results
from jobs.review import archive_of
from pipeline.config.job import load_job
from pipeline.config.sections import StorageConfig
from pipeline.evaluation.dataset import EvaluationError
from pipeline.evaluation.labels import labelled_clips
from pipeline.review.label_studio import imported
from pipeline.review.labels import (
    COLUMNS,
    RIGHT,
    WRONG,
    Label,
    LabelsError,
    forget_labels,
    labels_file,
    read_labels,
)
from pipeline.review.queue import Item, queue
from pipeline.review.reliability import Curve, curves, thresholds_for
from pipeline.review.server import ReviewServer
from pipeline.storage.arrow import arrow_filesystem
from pipeline.storage.store import open_store
from pipeline.tables.query import keep_sure, open_results
from tests.support.browser import browser
from tests.support.media_files import make, picture, sound
from tests.support.published_tables import publish
from tests.support.small_jobs import cli
from workers.media.opening import local_uri

SHAPE = ("choice", "circle")
UNSURE = {"a.webm": [(0.0, 1.0, {"heard": ("boolean", "yes", 0.9), "shape": (*SHAPE, 0.55)}),
                     (1.0, 2.0, {"heard": ("boolean", "no", 0.6), "shape": ("choice", "square", 0.99)}),
                     (2.0, 3.0, {"seen": ("text", "A <b>red</b> shape.", None)})]}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("review")
    video = folder / "a.webm"
    codecs = ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus")
    make(*picture(3, rate=10, size="64x48"), *sound(3), *codecs, video)
    (folder / "secret.txt").write_text("not yours")
    return publish(folder / "results", UNSURE, {"a.webm": {"uri": str(video)}})


@contextmanager
def served(results, path, **options):
    def following(labelled):
        with open_results(str(results)) as connection:
            items = queue(connection, open_store(str(results)), "test", labelled, **options)
            return items, dict(connection.execute("SELECT media_id, uri FROM media").fetchall())

    with labels_file(path) as labels, ReviewServer(0, labels, following, StorageConfig()) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_media_are_read_from_the_archives_server(tmp_path):
    """Which may be another than that of the results."""
    (tmp_path / "job.yaml").write_text(
        "name: test\narchive: {uri: s3://films, endpoint_url: http://media:9000, anonymous: true}\noutput: s3://answers\n"
        "question_set: toy-world\nstorage: {endpoint_url: http://results:9000}\nindex_url: sqlite:///i.sqlite\n"
    )
    storage, anonymous = archive_of(find_results(str(tmp_path / "job.yaml")))
    assert (storage.endpoint_url, anonymous) == ("http://media:9000", True)
    filesystem, path = arrow_filesystem("s3://films/a.mp4", storage, anonymous=anonymous)
    assert (filesystem.handler.fs.anon, filesystem.handler.fs.endpoint_url, path) == (
        *(True, "http://media:9000", "films/a.mp4"),
    )
    storage, anonymous = archive_of(find_results("s3://answers", "http://all:9000"))
    assert (storage.endpoint_url, anonymous) == ("http://all:9000", False)


def ask(server, path, method="GET", body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


# What comes first


def test_unsure_answers_come_first_and_every_fifth_is_drawn(tmp_path):
    spans = [(t, t + 1, {"q": ("choice", "a", 0.5 + t / 100)}) for t in range(40)]
    with open_results(str(publish(tmp_path / "r", {"a.mp4": spans}))) as connection:
        items = queue(connection, open_store(str(tmp_path / "r")), "test", [], most=20)
        unsure = [item.margin for item in items if item.why == "unsure"]
        assert len(unsure) == 16
        assert unsure == sorted(unsure)
        assert [item.why for item in items[4::5]] == ["sampled"] * 4
        labelled = [item.label(RIGHT, "a") for item in items]
        rest = queue(connection, open_store(str(tmp_path / "r")), "test", labelled, most=100)
    assert len({item.clip_id for item in [*items, *rest]}) == len(items) + len(rest) == 40


def test_of_exact_copies_one_is_looked_at(tmp_path):
    spans = [(t, t + 1, {"q": ("choice", "a", 0.5 + t / 100)}) for t in range(4)]
    clips = dict.fromkeys(("c/1.mp4", "a.mp4", "c/2.mp4"), spans)
    uri = str(publish(tmp_path / "r", clips, copies={"c/1.mp4": "a.mp4", "c/2.mp4": "a.mp4"}))

    def looked_at(**which):
        with open_results(uri) as connection:
            return sorted(item.clip_id for item in queue(connection, open_store(uri), "test", [], **which))

    assert looked_at() == [f"a.mp4-{number}" for number in range(4)]
    assert looked_at(media="c/*") == [f"c/1.mp4-{number}" for number in range(4)]
    assert looked_at(media="c/2.mp4") == [f"c/2.mp4-{number}" for number in range(4)]


# The page


def played(page, what):
    """Wait until the video's time is so."""
    deadline = time.monotonic() + 60
    while not page.evaluate(f"document.getElementById('video').currentTime {what}"):
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


def test_the_page_plays_and_labels_in_a_browser(results, tmp_path):
    path = tmp_path / "labels.csv"
    complaints = []
    with served(results, path) as server, browser() as chromium:
        from playwright.sync_api import expect

        page = chromium.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector("html[data-ready]", state="attached")
        assert page.inner_text("#question") == "shape?"
        assert page.inner_text("#where").startswith("a.webm · 0:00:00.0 to 0:00:01.0")
        played(page, "> 0")
        page.keyboard.press("y")
        expect(page.locator("#question")).to_have_text("heard?")
        played(page, ">= 1")
        assert page.evaluate("document.getElementById('video').muted") is False  # questions are about sound, too
        page.keyboard.press("n")  # yes/no: then the other is right
        expect(page.locator("#progress")).to_have_text("2 labelled")
        page.keyboard.press("u")
        expect(page.locator("#progress")).to_have_text("1 labelled")
        page.keyboard.press("n")
        expect(page.locator("#answer")).to_have_text("yes")
        page.keyboard.press("2")  # heard in the first second: the second option is no
        expect(page.locator("#answer")).to_have_text("square")
        page.keyboard.press("1")
        expect(page.locator("#answer")).to_have_text("A <b>red</b> shape.")
        page.fill("#own", "nothing, really")
        page.press("#own", "Enter")
        page.wait_for_selector("#done:not([hidden])")
    assert complaints == []
    said = {(label.start, label.question_id): (label.verdict, label.answer) for label in read_labels(path)}
    assert said == {
        (0, "shape"): (RIGHT, "circle"),
        (1, "heard"): (WRONG, "yes"),
        (0, "heard"): (WRONG, "no"),
        (1, "shape"): (WRONG, "circle"),
        (2, "seen"): (WRONG, "nothing, really"),
    }


def test_nobody_else_is_answered_and_no_other_file_is_sent(results, tmp_path):
    with served(results, tmp_path / "labels.csv") as server:
        token = f"/{server.token}"
        host = f"127.0.0.1:{server.server_port}"
        server.following()
        assert ask(server, f"{token}/")[0] == 200
        assert ask(server, "/")[0] == ask(server, "/wrong/next")[0] == ask(server, token[:-1] + "/next")[0] == 404
        assert ask(server, f"{token}/next", Host="evil.example")[0] == 404
        label = json.dumps({"clip_id": "a.webm-0", "question_id": "heard", "verdict": "right"})
        kind = {"Content-Type": "application/json"}
        assert ask(server, f"{token}/label", "POST", label, Origin="http://evil.example", **kind)[0] == 404
        assert ask(server, f"{token}/label", "POST", label, **{"Content-Type": "text/plain"})[0] == 415
        assert ask(server, f"{token}/label", "POST", "x" * 100_000, **kind)[0] == 413
        assert ask(server, f"{token}/label", "POST", "{", **kind)[0] == 409
        unknown = json.dumps({"clip_id": "x", "question_id": "heard", "verdict": "right"})
        assert b"not on the list" in ask(server, f"{token}/label", "POST", unknown, **kind)[2]
        odd = json.dumps({"clip_id": "a.webm-1", "question_id": "shape", "verdict": "wrong", "answer": "cube"})
        assert b"one of circle, square" in ask(server, f"{token}/label", "POST", odd, **kind)[2]
        for path in ("media/secret.txt", "media/../secret.txt", "media/%2e%2e%2fsecret.txt", "media//etc/passwd"):
            assert ask(server, f"{token}/{path}")[0] == 404
        assert not (tmp_path / "labels.csv").exists()
        assert ask(server, f"{token}/label", "POST", label, Origin=f"http://{host}", **kind)[0] == 200
        assert len(read_labels(tmp_path / "labels.csv")) == 1


def test_a_page_in_the_place_of_a_video_does_not_run(results, tmp_path):
    with served(results, tmp_path / "labels.csv") as server:
        server.following()
        for name in ("x.html", "x.svg", "x.xhtml", "x.js"):
            (tmp_path / name).write_text("<script>alert(1)</script>")
            server._uris["id-a.webm"] = str(tmp_path / name)
            _, headers, _ = ask(server, f"/{server.token}/media/id-a.webm")
            assert headers["Content-Type"] == "application/octet-stream"
            assert "sandbox" in headers["Content-Security-Policy"]


def test_a_video_whose_name_is_not_text_is_sent(results, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.webm")
    with open(path, "wb") as file:
        file.write(b"media")
    with served(results, tmp_path / "labels.csv") as server:
        server._uris["odd"] = local_uri(path)
        assert ask(server, f"/{server.token}/media/odd")[2] == b"media"


def test_media_come_in_ranges(results, tmp_path):
    whole = (results.parent / "a.webm").read_bytes()
    with served(results, tmp_path / "labels.csv") as server:
        path = f"/{server.token}/media/id-a.webm"
        server.following()
        status, headers, content = ask(server, path)
        assert (status, content, headers["Content-Type"]) == (200, whole, "video/webm")
        for asked, first, after in (
            ("bytes=0-", 0, len(whole)),
            ("bytes=5-9", 5, 10),
            ("bytes=-7", len(whole) - 7, len(whole)),
            ("bytes=10-99999999", 10, len(whole)),
        ):
            status, headers, content = ask(server, path, Range=asked)
            assert (status, content) == (206, whole[first:after])
            assert headers["Content-Range"] == f"bytes {first}-{after - 1}/{len(whole)}"
        assert ask(server, path, Range=f"bytes={len(whole)}-")[0] == 416
        assert ask(server, path, Range="pages=1-2")[0] == 200
        assert ask(server, path, "HEAD")[2] == b""


# Labels


def test_labels_are_what_evaluate_takes(job, tmp_path):
    path = tmp_path / "labels.csv"
    with labels_file(path) as labels:
        labels.put(
            Label("short.mp4", 0.0, 3.0, "shape", "circle", WRONG, "square"),
            Label("short.mp4", 0.0, 3.0, "heard", "", WRONG, "yes"),
            Label("long.mkv", 3.0, 6.0, "heard", "yes", RIGHT, "yes"),
        )
    clips = labelled_clips(path, load_job(job))
    assert [(clip.media.key, clip.start_s, [(t.question_id, t.right) for t in clip.targets]) for clip in clips] == [
        ("short.mp4", 0, [("shape", ("circle",))]),
        ("long.mkv", 3, [("heard", ("yes",))]),
    ]
    with labels_file(path) as labels:
        labels.put(Label("short.mp4", 0.0, 3.0, "heard", "yes", question="Is it loud?"))
    with pytest.raises(EvaluationError, match=r"question heard was 'Is it loud\?' when it was labelled, and is"):
        labelled_clips(path, load_job(job))


def test_labels_of_other_words_under_the_same_id_do_not_count(results, caplog):
    old = Label("a.webm", 0, 1, "shape", "circle", RIGHT, "circle", question="Which form has it?")
    with open_results(str(results)) as connection:
        assert curves(connection, "test", [old]) == []
        assert "1 label of shape left out: the question was worded otherwise then" in caplog.text
        for words, comes_again in (("Which form has it?", True), ("shape?", False), ("", False)):
            labelled = [replace(old, question=words)]
            items = queue(connection, open_store(str(results)), "test", labelled)
            assert (old.key in [item.label(RIGHT, "").key for item in items]) is comes_again


def test_a_label_replaces_the_one_before_it(tmp_path):
    path = tmp_path / "labels.csv"
    with labels_file(path) as labels:
        labels.put(Label("a.webm", 0, 1, "heard", "yes"), Label("a.webm", 0, 1, "shape", "", WRONG, "circle"))
        labels.put(Label("a.webm", 0, 1, "heard", "no", WRONG, "yes"))
        with pytest.raises(LabelsError, match="another `omnidrop review` writes it"), labels_file(path):
            pass
    rows = list(csv.DictReader(path.open(newline="")))
    assert [(r["file"], r["start"], r["end"], r["question_id"], r["answer"]) for r in rows] == [
        ("a.webm", "0", "1", "heard", "no"),
        ("a.webm", "0", "1", "shape", ""),
    ]


def test_a_table_of_somebody_else_is_not_written_over(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("file,question,answer\na.mp4,heard,yes\n")
    with pytest.raises(LabelsError, match="was not written by `omnidrop review`"), labels_file(path):
        pass
    assert path.read_text().startswith("file,question,answer\n")


def test_labels_that_a_spreadsheet_saved_are_read_and_what_is_none_is_named(tmp_path):
    path = tmp_path / "labels.csv"
    head = ",".join(COLUMNS)
    path.write_bytes(f"\ufeff{head}\r\na.mp4,0,1,heard,yes,right,yes,\r\n,,,,,,,\r\n\r\n".encode())
    assert read_labels(path) == [Label("a.mp4", 0, 1, "heard", "yes", RIGHT, "yes")]
    path.write_text(f"{','.join(COLUMNS[:-1])}\na.mp4,0,1,heard,yes,right,yes,c\n")  # before questions were kept
    assert read_labels(path) == [Label("a.mp4", 0, 1, "heard", "yes", RIGHT, "yes", "c")]
    for row, said in (
        ("a.mp4,nan,1,heard,yes,right,yes,", "nan to 1 is no time range"),
        ("a.mp4,0,1,heard,yes,Wright,yes,", "verdict 'Wright' is neither right nor wrong"),
        ("a.mp4,0", "not a label"),
    ):
        path.write_text(f"{head}\n{row}\n")
        with pytest.raises(LabelsError, match=f"line 2: .*{said}"):
            read_labels(path)


def test_the_right_number_is_a_number(tmp_path):
    item = Item("c", "m", "a.mp4", 0, 1, "people", "How many?", "number", "2", 0.9, 0.1, None, "unsure", ())
    with labels_file(tmp_path / "labels.csv") as labels:
        server = ReviewServer(0, labels, lambda _: ([item], {}), StorageConfig())
        server.following()
        said = {"clip_id": "c", "question_id": "people", "verdict": WRONG}
        with pytest.raises(LabelsError, match="must be a number, got 'many'"):
            server.label({**said, "answer": "many"})
        assert server.label({**said, "answer": "3"}) == 1
        server.server_close()


def test_what_is_forgotten_is_not_labelled_either(tmp_path, caplog):
    path = tmp_path / "labels.csv"
    assert forget_labels(path, "a.mp4".__eq__) == 0
    with labels_file(path) as labels:
        labels.put(*(Label(file, 0, 1, "heard", "yes") for file in ("a.mp4", "b.mp4")))
    assert [forget_labels(path, "a.mp4".__eq__) for _ in range(2)] == [1, 0]
    assert [label.file for label in read_labels(path)] == ["b.mp4"]
    assert caplog.messages == []
    path.write_text("file,answer\na.mp4,yes\n")
    assert forget_labels(path, "a.mp4".__eq__) == 0
    assert "may name what was forgotten" in caplog.text


def test_label_studios_corrections_become_labels(results, tmp_path):
    done = cli("export", results, "--to", "label-studio", "-o", tmp_path / "tasks.json")
    assert done.exit_code == 0, done.output
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    # A person keeps what was found, but for the tone: it is heard from 1 s on, not before.
    kept = [one for one in task["predictions"][0]["result"] if "heard" not in one["value"]["timelinelabels"][0]]
    heard = {"type": "timelinelabels",
             "value": {"ranges": [{"start": 26, "end": 50}], "timelinelabels": ["heard: yes"]}}  # fmt: skip
    task |= {"annotations": [{"was_cancelled": False, "result": [*kept, heard]}]}
    (tmp_path / "done.json").write_text(json.dumps([task]))
    with open_results(str(results)) as connection:
        labels = imported(tmp_path / "done.json", connection, "test")
    assert {(label.start, label.question_id): (label.answer, label.verdict) for label in labels} == {
        (0, "heard"): ("no", WRONG),
        (1, "heard"): ("yes", WRONG),
        (0, "shape"): ("circle", RIGHT),
        (1, "shape"): ("square", RIGHT),
    }
    (tmp_path / "none.json").write_text("[]")
    done = cli("review", results, "--import", tmp_path / "none.json", "--labels", tmp_path / "l.csv")
    assert done.exit_code == 2
    assert "no task has an annotation" in done.stderr


# Probabilities


@pytest.fixture(scope="module")
def trusted(tmp_path_factory):
    """2,000 answers that are right as often as p squared; the labels are of the least sure and a few others."""
    folder = tmp_path_factory.mktemp("trusted")
    draw = random.Random(0)
    spans, right = [], {}
    for t in range(2000):
        probability = draw.uniform(0.5, 1)
        spans.append((float(t), t + 1.0, {"q": ("choice", "a", probability)}))
        right[t] = draw.random() < probability**2
    publish(folder / "results", {"a.mp4": spans})
    order = sorted(range(2000), key=lambda t: spans[t][2]["q"][2])
    with labels_file(folder / "labels.csv") as labels:
        labels.put(
            *(
                Label("a.mp4", t, t + 1, "q", "a" if right[t] else "b", RIGHT if right[t] else WRONG, "a")
                for t in {*order[:300], *order[::3]}
            )
        )
    return folder, {spans[t][2]["q"][2]: right[t] for t in right}


def test_a_threshold_keeps_its_promise_on_all_answers(trusted):
    folder, right = trusted
    with open_results(str(folder / "results")) as connection:
        (curve,) = curves(connection, "test", read_labels(folder / "labels.csv"))
        least = thresholds_for([curve], 0.8).least["q", None]
        keep_sure(connection, {("q", None): least})
        kept = [p for (p,) in connection.execute("SELECT probability FROM answers").fetchall()]
    assert sum(right[p] for p in kept) / len(kept) == pytest.approx(0.8, abs=0.05)
    assert len(kept) == sum(p >= least for p in right)
    # Probabilities promise more than they keep, by p - p squared.
    assert 0.1 < curve.error < 0.25
    assert all(one.low <= one.right <= one.high for one in curve.bins)
    assert sum(one.labels for one in curve.bins) == curve.labels


def test_a_threshold_counts_all_answers_that_are_equally_probable():
    steps, published = ((0.5, 0.5), (0.9, 1.0)), (0.6,) * 100 + (0.95,) * 20
    curve = Curve("q", None, 30, 28, (), 0.0, steps, (0.6,) * 10 + (0.95,) * 20, published)
    # With five of the hundred a precision of 0.9 would be kept; with all of them it is 0.58.
    assert curve.threshold(0.9) == 0.95
    assert curve.threshold(0.55) == 0.6


def test_commands_use_the_promise_and_refuse_one_that_cannot_be_made(trusted, tmp_path):
    folder, right = trusted
    results, labels = folder / "results", folder / "labels.csv"
    shown = json.loads(cli("review", results, "--curve", "--labels", labels, "--json", "-").stdout)
    least = shown["curves"][0]["thresholds"]["0.8"]
    count = cli("query", results, "SELECT count(*) AS n FROM answers", "--precision", "0.8", "--labels", labels,
                "--format", "json")  # fmt: skip
    assert json.loads(count.stdout) == [{"n": sum(p >= least for p in right)}]
    assert f"q from p = {least:.3f} on" in count.stderr
    done = cli("export", results, "--to", "csv-markers", "--precision", "0.8", "--labels", labels, "-o", tmp_path / "m")
    assert done.exit_code == 0, done.output
    for precision, file, message in (
        ("0.999", labels, "q: no threshold reaches this precision"),
        ("0.8", tmp_path / "none.csv", "there are no labels for published answers"),
    ):
        refused = cli("export", results, "--to", "vtt", "--precision", precision, "--labels", file)
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_a_few_labels_promise_nothing(results):
    labels = [Label("a.webm", 0, 1, "shape", "circle", RIGHT, "circle")]
    with open_results(str(results)) as connection:
        found = curves(connection, "test", labels)
    with pytest.raises(LabelsError, match="shape: 1 labels; at least 20 are needed"):
        thresholds_for(found, 0.9)


def test_the_command_serves_until_it_is_stopped(results, tmp_path):
    labels = tmp_path / "labels.csv"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/told\ncp "${{1#file://}}" {tmp_path}/shown\n')
    program.chmod(0o700)
    command = [sys.executable, "-m", "jobs.review", str(results), "--labels", str(labels)]
    environment = os.environ | {"BROWSER": f"{program} %s"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        url = urlsplit(next(line for line in process.stderr if line.startswith("http")).strip())
        address = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        address.request("GET", f"{url.path}next")
        items = json.loads(address.getresponse().read())["items"]
        said = {name: items[0][name] for name in ("clip_id", "question_id")} | {"verdict": "wrong", "answer": "square"}
        address.request("POST", f"{url.path}label", json.dumps(said), {"Content-Type": "application/json"})
        assert json.loads(address.getresponse().read()) == {"labelled": 1}
        address.close()
        process.send_signal(signal.SIGTERM)
        assert f"{labels}: 1 label" in process.stderr.read()
        assert process.wait() == 0
    assert [label.answer for label in read_labels(labels)] == ["square"]
    # What a program is started with can be seen by everybody on the machine; the token is for this user.
    told = (tmp_path / "told").read_text().strip()
    assert url.path.strip("/") not in told
    assert url.geturl() in (tmp_path / "shown").read_text()
    assert not Path(told.removeprefix("file://")).parent.exists()
