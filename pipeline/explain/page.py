"""A storyboard as one HTML page, in the report's dress.

Promises: the page is whole in itself (its content security policy lets it load nothing), smaller than `PAGE_BYTES`, and
whatever came from a file, a question or the model is text in it, never markup. Knows nothing about models.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from importlib import resources
from importlib.metadata import version

import jinja2
from markupsafe import Markup

from pipeline.explain.view_model import LEVELS, Storyboard
from workers.whole_text import clock

PAGE_BYTES = 1_500_000


def render(board: Storyboard) -> bytes:
    """The page, UTF-8."""
    folder = resources.files("pipeline.explain") / "page"
    # The report's style first: both pages look alike because they are dressed alike.
    shared = (resources.files("pipeline.report") / "page" / "page.css").read_text(encoding="utf-8")
    own = (folder / "storyboard.css").read_text(encoding="utf-8")
    script = (folder / "storyboard.js").read_text(encoding="utf-8")
    packed = {name: base64.b64encode(zlib.compress(of, 9)).decode() for name, of in _maps(board)}
    data = asdict(board) | {"encoded": None, **packed, "levels": LEVELS}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["clock"] = clock
    template = environment.from_string((folder / "storyboard.html.j2").read_text(encoding="utf-8"))
    html = template.render(
        board=board,
        style=Markup(shared + own),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(_inert(data)),
        version=version("omnidrop"),
    )
    return html.encode()


def _maps(board: Storyboard) -> Iterator[tuple[str, bytes]]:
    yield "maps", board.maps
    if board.encoded:
        yield "encoded", board.encoded


def _inert(data: object) -> str:
    """JSON that HTML cannot read as anything else: `</script>` and `<!--` in a question stay letters."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
