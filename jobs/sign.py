"""`omnidrop sign`: vouch for published results with a key of one's own."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from jobs._shared.results import EndpointUrl, Results, find_results
from jobs._shared.terminal import say
from jobs.cli import main
from omnidrop.errors import UserError
from pipeline.config.locations import as_typed

EXAMPLES = (
    "omnidrop sign --new-key archive.key                   # once; give archive.key.pub to anyone who verifies",
    "omnidrop sign job.yaml --key archive.key",
    "omnidrop verify job.yaml --public-key archive.key.pub",
)

PASSWORD = "OMNIDROP_KEY_PASSWORD"


def command(
    results: Results = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The secret key.", show_default=False)] = None,
    new_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Create a key pair, FILE and FILE.pub. Signs nothing.", show_default=False),
    ] = None,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Sign the published tables, so that `omnidrop verify --public-key` can check that they are unchanged.

    The signature is stored next to the manifest (tables/current.json.minisig), which holds the digest of every table
    file. It is in minisign's format, so minisign can check it, too. Nothing is sent anywhere. Sign again after each run
    that publishes new tables. The key's password is asked for, or read from OMNIDROP_KEY_PASSWORD.
    """
    # Here, so that --help need not wait for pyarrow.
    from pipeline.storage.store import open_store
    from pipeline.tables import signing

    if (key is None) == (new_key is None):
        raise UserError("give --key FILE to sign results, or --new-key FILE to create a key pair")
    if new_key is not None:
        password = _password(f"Password of {new_key} (empty: none)", is_new=True)
        public = signing.make_keys(new_key, password)
        locked = "" if password else ", which is not encrypted: anyone who can read it can sign"
        say(f"{public}: give this to anyone who verifies; the secret key is {new_key}{locked}")
        return
    assert key is not None
    password = _password(f"Password of {key}") if signing.is_encrypted(key) else ""
    place = find_results(results, endpoint_url)
    generation = signing.sign(open_store(place.uri, place.storage), key, password)
    check = f"omnidrop verify {as_typed(results or place.uri, endpoint_url)} --public-key {shlex.quote(f'{key}.pub')}"
    say(f"{place.uri}: generation {generation} is signed; check it with {check}")


def _password(prompt: str, *, is_new: bool = False) -> str:
    if (given := os.environ.get(PASSWORD)) is not None:
        return given
    try:
        return str(typer.prompt(prompt, default="", show_default=False, hide_input=True, confirmation_prompt=is_new))
    except typer.Abort as error:
        raise UserError(f"no password was given; type it, or set {PASSWORD}") from error


if __name__ == "__main__":
    main("sign")
