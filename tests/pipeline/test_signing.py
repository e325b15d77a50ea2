"""`omnidrop sign` and `verify --public-key`: what was vouched for, and nothing else, passes."""

from __future__ import annotations

import json

import pytest
from minisign import PublicKey, Signature

from pipeline.storage.store import open_store
from pipeline.tables import signing
from tests.pipeline.test_verify import flip, report_of, table_file
from tests.support.small_jobs import cli


@pytest.fixture
def key(tmp_path):
    signing.make_keys(tmp_path / "a.key", "")
    return tmp_path / "a.key"


def verified(results, key):
    return cli("verify", results, "--public-key", f"{key}.pub")


def test_what_is_signed_passes_and_minisign_reads_it(results, key):
    assert verified(results, key).exit_code == 1
    assert "not signed" in verified(results, key).output
    signed = cli("sign", results, "--key", key)
    assert (signed.exit_code, "generation 1 is signed" in signed.output) == (0, True), signed.output
    checked = verified(results, key)
    assert checked.exit_code == 0, checked.output
    assert "omnidrop generation 1 of" in checked.output
    tables = results / "tables"
    public = PublicKey.from_file(f"{key}.pub")
    signature = Signature.from_file(tables / "current.json.minisig")
    public.verify((tables / "current.json").read_bytes(), signature)
    by_words = cli("verify", results, "--public-key", public.to_base64().decode())
    assert by_words.exit_code == 0, by_words.output
    # Without a key it is no foreign file, and says that it was not checked.
    assert report_of(results).is_clean
    assert "check the signer with --public-key FILE" in " ".join(report_of(results).notes)


def another_key(results, key):
    other = key.with_name("other.key")
    signing.make_keys(other, "")
    signing.sign(open_store(str(results)), other)


def a_later_manifest(results, key):
    path = results / "tables" / "current.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"published_at": "2030-01-01"}))


def a_torn_signature(results, key):
    path = results / "tables" / "current.json.minisig"
    path.write_bytes(path.read_bytes()[:100])


def an_edited_comment(results, key):
    path = results / "tables" / "current.json.minisig"
    path.write_text(path.read_text().replace("generation 1", "generation 2"))


def no_signature(results, key):
    (results / "tables" / "current.json.minisig").unlink()


def another_table(results, key):
    flip(table_file(results, "answers"))


@pytest.mark.parametrize(
    "change", [another_key, a_later_manifest, a_torn_signature, an_edited_comment, no_signature, another_table]
)
def test_what_was_not_signed_does_not_pass(results, key, change):
    signing.sign(open_store(str(results)), key)
    change(results, key)
    assert verified(results, key).exit_code == 1


def test_a_secret_key_is_its_owners_and_never_written_over(results, tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIDROP_KEY_PASSWORD", "of mine")
    path = tmp_path / "mine.key"
    made = cli("sign", "--new-key", path)
    assert made.exit_code == 0, made.output
    assert path.stat().st_mode & 0o777 == 0o600
    assert cli("sign", "--new-key", path).exit_code == 2
    assert cli("sign", results, "--key", path).exit_code == 0
    assert verified(results, path).exit_code == 0
    monkeypatch.setenv("OMNIDROP_KEY_PASSWORD", "of another")
    refused = cli("sign", results, "--key", path)
    assert (refused.exit_code, "check the password" in refused.output) == (2, True), refused.output


@pytest.mark.parametrize("arguments", [["sign"], ["sign", "--key", "missing"], ["verify", "{results}", "--public-key", "x"], ["verify", "{results}", "--public-key", "RWx"], ["sign", "{results}", "--key", "{results}/index.sqlite"]])  # noqa: E501  # fmt: skip
def test_what_is_no_key_is_a_users_error(results, arguments):
    result = cli(*(part.replace("{results}", str(results)) for part in arguments))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
