"""Job files: what is accepted, what is refused, and that refusals tell where, what was given and what is allowed."""

from __future__ import annotations

import contextlib
import json
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs._shared.options import scalar
from pipeline.config.idle_settings import idle_settings
from pipeline.config.job import ExecutionConfig, JobConfig, JobError, load_job, make_job
from pipeline.config.locations import as_typed
from pipeline.config.worker_settings import pruning_of
from pipeline.config.yaml_source import MAX_FILE_BYTES, YamlError, parse_yaml, read_yaml
from pipeline.journal import defaults
from pipeline.journal.recipes import Kept, decode_recipe, keep, path_of
from pipeline.planning.differences import changed_settings
from pipeline.planning.recipe import make_recipe
from pipeline.questions.question_set import load_question_set
from pipeline.records.checksummed_parquet import JournalError
from pipeline.storage.local_store import LocalStore

SMALL = {"name": "talks", "archive": {"uri": "/videos"}, "output": "/out", "question_set": "lecture"}


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def refusal(folder: Path, text: str, **overrides: object) -> str:
    with pytest.raises(JobError) as caught:
        load_job(write(folder, text), {k.replace("__", "."): v for k, v in overrides.items()})
    return str(caught.value)


GOOD = """\
    name: talks
    archive:
      uri: videos
      include: ["**/*.mp4", "*.mkv"]
    output: s3://bucket/results/
    question_set: sets/mine.yaml
    variables: {topic: physics, year: 2024, live: true}
    model: {path: ./weights}
    clips:
      length_s: 1e1
    index_url: ${OMNIDROP_INDEX_URL}
"""


def test_a_job_file_becomes_one_object_with_absolute_local_paths(tmp_path: Path):
    job = load_job(write(tmp_path, GOOD))
    assert job.archive.uri == str(tmp_path / "videos")
    assert job.archive.include == ("**/*.mp4", "*.mkv")
    assert job.output == "s3://bucket/results"
    assert job.question_set == str(tmp_path / "sets/mine.yaml")
    assert job.model.path == str(tmp_path / "weights")
    assert job.clips.length_s == 10.0
    assert job.variables == {"topic": "physics", "year": 2024, "live": True}


def test_yaml_options_and_python_give_the_same_object(tmp_path: Path):
    path = write(tmp_path, "name: talks\narchive: {uri: /videos}\noutput: /out\nquestion_set: lecture\n")
    from_options = load_job(path, {"clips.fps": "4", "archive.sample": 3, "pruning.mode": "dense"})
    from_python = make_job(
        {**SMALL, "clips": {"fps": 4}, "archive": {"uri": "/videos", "sample": 3}, "pruning": {"mode": "dense"}}
    )
    assert from_options == from_python
    assert JobConfig.model_validate(from_python.model_dump(mode="json")) == from_python


def test_paths_given_as_options_start_at_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = write(tmp_path, GOOD)
    monkeypatch.chdir(elsewhere)
    job = load_job(path, {"archive.uri": "other", "output": "out", "question_set": "q.yaml"})
    assert (job.archive.uri, job.output) == (str(elsewhere / "other"), str(elsewhere / "out"))
    assert job.question_set == str(elsewhere / "q.yaml")


def test_a_builtin_set_and_a_hub_id_are_not_taken_for_paths(tmp_path: Path):
    text = GOOD.replace("sets/mine.yaml", "lecture").replace("./weights", "Qwen/Qwen2.5-Omni-3B")
    job = load_job(write(tmp_path, text))
    assert (job.question_set, job.model.path) == ("lecture", "Qwen/Qwen2.5-Omni-3B")


def test_a_misspelt_field_gets_the_nearest_name_with_line_and_column(tmp_path: Path):
    message = refusal(tmp_path, GOOD.replace("length_s: 1e1", "lenght_s: 10"))
    assert f"{tmp_path}/job.yaml:10:3: clips.lenght_s" in message
    assert "did you mean length_s?" in message
    assert "overlap_s" in message


def test_a_value_out_of_range_names_what_was_given_and_what_is_allowed(tmp_path: Path):
    message = refusal(tmp_path, GOOD.replace("1e1", "-3"))
    assert "job.yaml:10:3: clips.length_s" in message
    assert "greater than or equal to 0.5" in message
    assert "given: -3" in message
    assert "Clip length in seconds" in message


def test_a_bad_option_is_named_as_the_option_it_was_given_by(tmp_path: Path):
    message = refusal(tmp_path, GOOD, clips__cut="random")
    assert "option --clips-cut" in message
    assert "'fixed' or 'scene'" in message
    assert "job.yaml" not in message


def test_all_problems_are_reported_at_once(tmp_path: Path):
    message = refusal(tmp_path, GOOD.replace("1e1", "-3").replace("name: talks", "name: My Talks"))
    assert message.startswith("2 problems:")
    assert "job.yaml:1:1: name" in message


def test_a_missing_field_is_explained(tmp_path: Path):
    message = refusal(tmp_path, "name: talks\narchive: {}\nquestion_set: lecture\n")
    assert "job.yaml:2:1: archive.uri: is missing" in message
    assert "output: is missing" in message


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("clips", {"overlap_s": 29}, "90 % of length_s"),
        ("clips", {"cut": "scene", "overlap_s": 1}, "scenes do not overlap"),
        ("clips", {"min_length_s": 40}, "above the longest clip"),
        ("clips", {"fps": float("nan")}, "finite"),
        ("clips", {"fps": True}, "fps cannot be true"),
        ("pruning", {"retained_ratio": True}, "retained_ratio cannot be true"),
        ("clips", None, "clips: there is no value; give one, or remove the line"),
        ("pruning", "off", "pruning: must have fields of its own, as in {name: value}"),
        ("archive", {"uri": "v", "include": "*.mp4"}, r"must be a list, as in \['\*.mp4'\]"),
        ("archive", {"uri": "v", "include": []}, "needs at least 1 of them"),
        ("name", 2024, "must be text; put it in quotes"),
        ("pruning", {"mode": "dense", "policy": "fastv"}, "policy must be none"),
        ("pruning", {"mode": "staged", "policy": "none"}, "needs a pruning policy"),
        ("pruning", {"mode": "dense", "retained_ratio": 0.3}, "keeps every token"),
        ("pruning", {"retained_ratio": 0}, "greater than 0"),
        ("pruning", {"retained_ratio": None}, "omnidrop needs a retained_ratio"),
        ("pruning", {"encoder_share": 0}, "greater than 0"),
        ("pruning", {"policy": "random", "encoder_share": 0.5}, "policy random chooses among all tokens"),
        ("pruning", {"policy": "random", "still_levels": 2}, "policy random chooses among all tokens"),
        ("pruning", {"still_levels": 256}, "less than or equal to 255"),
        ("pruning", {"near_duplicate": 0}, "near_duplicate was removed.*still_levels"),
        ("execution", {"max_deaths_per_clip": 5}, "must be above max_deaths_per_clip"),
        ("model", {"device": "gpu"}, "model.device"),
        ("model", {"actors": 0}, "model.actors"),
        ("storage", {"sse_kms_key_id": "k"}, "sse: aws:kms"),
        ("variables", {"not a name": 1}, "variable name"),
        ("variables", {"list": [1]}, "variables.list"),
        ("archive", {"uri": "ftp://host/x"}, "only local folders and s3://"),
        ("archive", {"uri": "s3:///x"}, "bucket"),
        ("archive", {"uri": "/v", "include": []}, "archive.include"),
        ("archive", {"uri": "/v", "include": ["/abs/*"]}, "neither starts nor ends with a slash"),
        ("archive", {"uri": "/v", "exclude": ["*.{mp4"]}, "braces must come in pairs"),
        ("archive", {"uri": "/out"}, "choose another folder"),
        ("archive", {"uri": "/v", "sample": 0}, "archive.sample"),
    ],
)
def test_settings_that_cannot_work_are_refused(field: str, value: object, expected: str):
    with pytest.raises(JobError, match=expected.replace("(", r"\(")):
        make_job({**SMALL, field: value})


@pytest.mark.parametrize(
    ("pruning", "share"),
    [
        ({}, 1.0),
        ({"encoder_share": 0.35}, 0.35),
        ({"policy": "seats"}, 1.0),
        ({"settings": {"entry": "rare"}, "encoder_share": 0.5}, 0.5),
        ({"mode": "dense_shared"}, 1.0),
        ({"mode": "dense_shared", "encoder_share": 0.5}, 1.0),
    ],
)
def test_the_share_encoded_is_settled_with_the_policy_and_is_what_runs(pruning: dict[str, object], share: float):
    given = make_job({**SMALL, "pruning": pruning}).pruning
    assert given.encoder_share == share == pruning_of(given).encoder_share


def test_another_share_is_another_recipe_and_the_whole_is_the_one_of_before_there_was_a_choice(tmp_path: Path):
    asked = load_question_set("lecture")

    def recipe(**pruning: object) -> dict[str, object]:
        return dict(make_recipe(make_job({**SMALL, "pruning": pruning}), asked, "weights").fields)

    shares = [recipe(encoder_share=share) for share in (0.35, 0.5, 1)]
    assert shares[0] != shares[1] != shares[2] == recipe()
    assert "encoder_share" not in str(shares[2])
    # What earlier versions kept does not say a share, and encoded everything.
    kept = Kept.of(make_job({**SMALL, "pruning": {"encoder_share": 1}}), asked)
    store = LocalStore(tmp_path)
    keep(store, "hash", kept)
    stored = json.loads(store.read_bytes(path_of("hash")))
    del stored["pruning"]["encoder_share"]
    assert decode_recipe(json.dumps(stored).encode(), where="here").pruning.encoder_share == 1.0


def test_a_card_is_part_of_the_recipe_where_its_pictures_may_differ():
    asked = load_question_set("lecture")

    def clips(**given: object) -> dict[str, object]:
        return dict(make_recipe(make_job({**SMALL, "clips": given}), asked, "weights").fields["clips"])

    assert clips() == clips(decoder="cpu") == clips(decoder="auto")
    assert clips(decoder="nvdec") == clips() | {"decoder": "nvdec"}
    assert "decoder" not in clips()


def test_what_stands_still_is_part_of_the_recipe_and_earlier_versions_knew_nothing_of_it(tmp_path: Path):
    asked = load_question_set("lecture")

    def made(**pruning: object) -> JobConfig:
        return make_job({**SMALL, "pruning": pruning})

    def recipe(**pruning: object) -> dict[str, object]:
        return dict(make_recipe(made(**pruning), asked, "weights").fields["pruning"])

    assert recipe(encoder_share=0.35) == recipe(encoder_share=0.35, still_levels=2) != recipe(still_levels=2)
    assert recipe(encoder_share=0.35)["still_levels"] == "2.0"
    # As recipes were before: without the new setting, with the one that is gone.
    before = {"encoder_share": "0.35", "guidance": "max", "mode": "set_guided", "near_duplicate": "0.0"}
    assert recipe(encoder_share=0.35, still_levels=0) == before | {"policy": "omnidrop", "retained_ratio": "0.3"}
    assert recipe(mode="dense_shared") == {"mode": "dense_shared", "near_duplicate": "0.0"}
    store = LocalStore(tmp_path)
    keep(store, "hash", Kept.of(made(encoder_share=0.35), asked))
    stored = json.loads(store.read_bytes(path_of("hash")))
    assert decode_recipe(json.dumps(stored).encode(), where="here").pruning.still_levels == 2.0
    del stored["pruning"]["still_levels"]
    stored["pruning"]["near_duplicate"] = 0.0
    assert (
        decode_recipe(json.dumps(stored).encode(), where="here").pruning
        == made(encoder_share=0.35, still_levels=0).pruning
    )
    stored["pruning"]["near_duplicate"] = 2.5
    with pytest.raises(JournalError, match=r"asked with near_duplicate 2\.5, which only earlier versions know"):
        decode_recipe(json.dumps(stored).encode(), where="here")
    # An output that remembers defaults, but not this one, was begun without it.
    for kept, levels in ((None, 0.0), (2.0, 2.0)):
        then = {"model": {}, "clips": {}, "pruning": {} if kept is None else {"still_levels": kept}}
        store.write(defaults.PATH, json.dumps(then).encode())
        assert defaults.with_kept(made(), store).pruning.still_levels == levels
        assert defaults.with_kept(made(still_levels=4), store).pruning.still_levels == 4
        assert defaults.with_kept(made(), store).context.subtitle_track == "none"


def test_an_output_begun_before_what_is_left_out_was_read_goes_on_so(tmp_path: Path):
    asked, store = load_question_set("lecture"), LocalStore(tmp_path)

    def made(**pruning: object) -> JobConfig:
        return make_job({**SMALL, "pruning": pruning})

    def recipe(job: JobConfig) -> dict[str, object]:
        return dict(make_recipe(job, asked, "weights").fields["pruning"])

    # Recipes as they were before it was a setting, and when it was one of a policy.
    off = {"guidance": "max", "mode": "set_guided", "near_duplicate": "0.0", "policy": "omnidrop"}
    off["retained_ratio"] = "0.3"
    on = off | {"settings": {"read_left_out": True}}
    assert recipe(made(read_left_out=False)) == recipe(made(settings={"read_left_out": False})) == off
    assert recipe(made()) == recipe(made(read_left_out=True)) == recipe(made(settings={"read_left_out": True})) == on
    assert recipe(made(encoder_share=0.35)) == recipe(made(encoder_share=0.35, read_left_out=False))
    unread, read = (make_recipe(job, asked, "weights").fields for job in (made(read_left_out=False), made()))
    assert changed_settings(unread, read) == ["pruning.read_left_out False -> True"]
    keep(store, "hash", Kept.of(made(), asked))
    stored = json.loads(store.read_bytes(path_of("hash")))
    for settings, reads in (({}, False), ({"read_left_out": True}, True), ({"read_left_out": False}, False)):
        stored["pruning"] = {"mode": "set_guided", "policy": "omnidrop", "retained_ratio": 0.3, "settings": settings}
        assert decode_recipe(json.dumps(stored).encode(), where="here").pruning == made(read_left_out=reads).pruning
    # What an output was begun with holds where the job says nothing.
    store.write(defaults.PATH, json.dumps({"model": {}, "clips": {}, "pruning": {"still_levels": None}}).encode())
    for job in (made(), made(settings={"memory": 0.5}), made(encoder_share=0.35)):
        assert not defaults.with_kept(job, store).pruning.read_left_out
    for job in (made(read_left_out=True), made(settings={"read_left_out": True})):
        assert defaults.with_kept(job, store).pruning.read_left_out
    begun = LocalStore(tmp_path / "begun")
    defaults.keep(begun)
    assert defaults.with_kept(made(), begun).pruning.read_left_out
    assert not defaults.with_kept(made(encoder_share=0.35), begun).pruning.read_left_out


@pytest.mark.parametrize(
    ("pruning", "share"),
    [
        ({}, 0.35),
        ({"encoder_share": 0.5}, 0.5),
        ({"encoder_share": 1}, 1.0),
        # Of before, too: all tokens are chosen among.
        ({"policy": "seats"}, 1.0),
        ({"settings": {"entry": "merged"}}, 1.0),
        ({"mode": "dense_shared"}, 1.0),
    ],
)
def test_an_output_begun_when_less_was_encoded_by_default_goes_on_so(
    pruning: dict[str, object], share: float, tmp_path: Path
):
    store = LocalStore(tmp_path)
    then = {"model": {}, "clips": {}, "pruning": {"policy": "omnidrop", "encoder_share": None, "still_levels": None}}
    store.write(defaults.PATH, json.dumps(then).encode())
    found = defaults.with_kept(make_job({**SMALL, "pruning": pruning}), store).pruning
    assert (found.encoder_share, found.still_levels) == (share, 2.0 if share < 1 else 0.0)
    # One that is begun now remembers a number.
    begun = LocalStore(tmp_path / "begun")
    defaults.keep(begun)
    assert json.loads(begun.read_bytes(defaults.PATH))["pruning"]["encoder_share"] == 1.0


def test_a_worker_dies_more_often_than_a_clip_may_by_default():
    settings = ExecutionConfig()
    assert settings.max_deaths_per_worker > settings.max_deaths_per_clip


SECRET = "hunter2"


@pytest.mark.parametrize(
    "change",
    [
        {"output": f"s3://user:{SECRET}@bucket/x"},
        {"archive": {"uri": f"s3://bucket/x?X-Amz-Signature={SECRET}"}},
        {"archive": {"uri": "/v", "endpoint_url": f"http://user:{SECRET}@host"}},
        {"archive": {"uri": "/v", "secret_key": SECRET}},
        {"storage": {"aws_secret_access_key": SECRET}},
        {"storage": {"key": SECRET}},
        {"index_url": f"postgresql://user:{SECRET}@host/db"},
        {"index_url": f"postgresql://host/db?password={SECRET}"},
        {"index_url": f"postgresql://user:a/{SECRET}@host/db"},
        {"index_url": f"postgresql//user:{SECRET}@host/db"},
        {"index_url": f"postgresql://user:{SECRET}@[::1/db"},
        {"output": f"s3://key:a/{SECRET}@bucket/x"},
        {"archive": {"uri": f"ftp://user:{SECRET}@host/x"}},
        {"archive": {"uri": "/v", "endpoint_url": f"http://user:a/{SECRET}@host"}},
        {"archive": {"uri": "/v", "endpoint_url": f"user:{SECRET}@host"}},
    ],
)
def test_credentials_are_refused_and_never_repeated(change: dict[str, object]):
    with pytest.raises(JobError) as caught:
        make_job({**SMALL, **change})
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_with_an_at_sign_is_no_credential():
    assert make_job({**SMALL, "output": "s3://bucket/a@b:c/x"}).output == "s3://bucket/a@b:c/x"


def test_the_index_password_comes_from_the_environment_and_stays_out_of_the_job():
    job = make_job({**SMALL, "index_url": "postgresql+psycopg://me:${OMNIDROP_DB_PASSWORD}@host/db"})
    assert job.resolved_index_url({"OMNIDROP_DB_PASSWORD": SECRET}) == f"postgresql+psycopg://me:{SECRET}@host/db"
    assert SECRET not in job.model_dump_json()
    with pytest.raises(JobError, match="OMNIDROP_DB_PASSWORD, which is not set"):
        job.resolved_index_url({})


def test_the_index_lies_beside_local_results_and_must_be_named_for_results_in_s3():
    assert make_job(SMALL).resolved_index_url() == "sqlite:////out/index.sqlite"
    with pytest.raises(JobError, match="SQLite cannot live in S3; give index_url"):
        make_job({**SMALL, "output": "s3://bucket/x"}).resolved_index_url()


def test_an_archive_is_known_by_its_name_or_else_its_address():
    assert make_job({**SMALL, "archive": {"uri": "s3://bucket/a/"}}).archive.identity == "s3://bucket/a"
    assert make_job({**SMALL, "archive": {"uri": "/moved", "name": "talks"}}).archive.identity == "talks"


def test_a_job_cannot_be_changed():
    job = make_job(SMALL)
    with pytest.raises(ValueError, match="frozen"):
        job.clips.fps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", r"x.yaml:3:1: a is given twice \(first in line 1\)"),
        ("a: !!python/object/apply:os.system [ls]\n", r"x.yaml:1:4: the tag .* is not allowed"),
        ("a: {b: 1\nc: 2\n", r"x.yaml:2:2: not valid YAML"),
        ("base: &b {x: 1}\nother: {<<: *b}\n", "merge keys"),
        ("? [1, 2]\n: 3\n", "a key must be plain text"),
        ("a: &a [*a]\n", "nested deeper"),
        ("[" * 1500 + "]" * 1500, "nested deeper"),
        ("- id people\n  text: b\n", "is a colon missing in line 1, as in id: people"),
        ("- text Is it red\n  answer: b\n", "is a colon missing in line 1, as in text: Is it red"),
        ("a: 1\nb c\nd: 1\n", "is a colon missing in line 2, as in b: c"),
        ("text: Is: it\n", "quote the text around ':'"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: \x01\n", "not valid YAML"),
        ('a: "\\ud800"\n', "surrogate"),
    ],
)
def test_yaml_that_is_not_plain_is_refused_with_its_place(text: str, expected: str):
    with pytest.raises(YamlError, match=expected):
        parse_yaml(text, Path("x.yaml"))


def test_an_alias_bomb_is_refused_before_it_grows():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(YamlError, match="once aliases"):
        parse_yaml("\n".join(lines), Path("x.yaml"))


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    with pytest.raises(YamlError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(YamlError, match="cannot be read"):
        read_yaml(tmp_path)
    (tmp_path / "big.yaml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(YamlError, match="larger than"):
        read_yaml(tmp_path / "big.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(YamlError, match="not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")


def test_words_stay_words():
    document = parse_yaml("[yes, no, on, 1:30, 2024-01-01, '1', 007, 1e3, 0x1f, null, true, .5, ~]", Path("x.yaml"))
    assert document.value == ["yes", "no", "on", "1:30", "2024-01-01", "1", 7, 1000.0, 31, None, True, 0.5, None]


_words = st.text(st.characters(exclude_categories=["Cs"]))
_keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)  # YAML takes 1,024 characters, escapes included
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _words
)
_trees = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4), max_leaves=12
)


@given(_trees)
def test_json_reads_as_the_values_it_was_made_from(tree: object):
    if "<<" in str(tree):
        return
    assert parse_yaml(json.dumps(tree), Path("x.yaml")).value == tree


@given(st.dictionaries(st.sampled_from(sorted(JobConfig.model_fields)), _trees))
def test_any_content_gives_a_job_or_one_clear_error(given_fields: dict[str, object]):
    with contextlib.suppress(JobError):
        assert make_job(given_fields).name == given_fields["name"]


def test_text_that_yaml_cuts_or_changes_is_warned_about(tmp_path, caplog):
    written = f"""\
        name: talks # a comment of a name that cannot hold one
        archive:
          uri: {tmp_path}/Team # 1
          include:
            - Day # 2/*.mp4
        output: /out   # a comment like most
        question_set: lecture
        variables:
          subject: C # minor
          language: 1.10
    """
    job = load_job(write(tmp_path, written))
    assert (job.archive.uri, job.variables["subject"]) == (f"{tmp_path}/Team", "C")
    assert [message.split(": ", 1)[1] for message in caplog.messages] == [
        f"{field} ends before {comment!r}, because YAML reads the rest as a comment; if it is part of the text, quote "
        "the text"
        for field, comment in {
            "archive.uri": "# 1",
            "archive.include[0]": "# 2/*.mp4",
            "variables.subject": "# minor",
        }.items()
    ] + ["variables.language is read as a number; for the text '1.10', quote it"]
    caplog.clear()
    overrides = {"archive.uri": "/a", "archive.include": ["*"], "variables.subject": "a", "variables.language": "b"}
    load_job(write(tmp_path, written), overrides)
    assert not caplog.messages


def test_settings_that_do_nothing_are_named():
    given = {
        "archive": {"uri": "/videos", "seed": 3, "anonymous": False, "follow_links": True},
        "clips": {"cut": "fixed", "scene_threshold": 0.2},
        "context": {"language": "en"},
        "pruning": {"mode": "per_question", "guidance": "mean"},
        "storage": {"sse": "AES256", "max_retries": 3},
    }
    job = make_job({**SMALL, **given})
    idle = [said.partition(" does nothing here: ")[0] for said in idle_settings(job, reads_context=False)]
    assert idle == ["clips.scene_threshold", "archive.seed", "storage.sse", "pruning.guidance", "context.language"]
    unpruned = {"mode": "dense_shared", "settings": {"memory": 0.5}}
    (said,) = idle_settings(make_job({**SMALL, "pruning": unpruned}), reads_context=True)
    assert said == "pruning.settings does nothing here: pruning.mode is dense_shared"
    meant = {
        "archive": {"uri": "s3://bucket/videos", "sample": 2, "seed": 3, "anonymous": True},
        "clips": {"cut": "scene", "scene_threshold": 0.2},
        **{"context": {"language": "en"}, "pruning": {"guidance": "mean"}, "storage": {"sse": "AES256"}},
    }
    assert not list(idle_settings(make_job({**SMALL, **meant, "output": "s3://bucket/out"}), reads_context=True))
    (said,) = idle_settings(make_job({**SMALL, "variables": {"a": "{{ clip.title }}", "b": "{}"}}), reads_context=True)
    assert said.startswith("variables.a holds '{{ clip.title }}', which is asked as it is")


def test_a_variable_on_the_command_line_is_not_cut(caplog):
    assert [scalar(text) for text in ("Team # 1", "5 # 1", "#", "a: b", "1.5", "true")] == [
        *("Team # 1", "5 # 1", "#", "a: b", 1.5, True)
    ]
    assert not caplog.messages
    assert (scalar("007"), scalar('"007"')) == (7, "007")
    assert caplog.messages == ["""007 is read as the number 7; for the text, quote it twice, as in NAME='"007"'"""]


def test_a_place_is_named_as_it_can_be_typed():
    """With its server, or the command that is shown would ask AWS."""
    server = "http://minio:9000"
    assert as_typed("s3://answers/my talks", server) == "'s3://answers/my talks' --endpoint-url http://minio:9000"
    assert as_typed("s3://answers/talks", None) == "s3://answers/talks"
    assert as_typed("/srv/talks", server) == "/srv/talks"
