"""`python -m dev.report_picture report.html`: makes the picture of the report in `docs/` from a report of the demo.

Its beginning in light colours, beside the timelines of two videos in dark ones. Needs Chromium and Pillow.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from tests.support.browser import browser

PICTURE = Path(__file__).parents[1] / "docs/images/report.png"
SIZE = {"width": 820, "height": 960}


def main(report: str) -> None:
    """Write the picture."""
    with browser() as running:
        halves = []
        for scheme in ("light", "dark"):
            page = running.new_page(viewport=SIZE, color_scheme=scheme)
            page.goto(Path(report).absolute().as_uri())
            if scheme == "dark":
                page.select_option("#pick-question", label="all questions")
                page.fill("#pick-text", "long/")
                page.wait_for_timeout(1000)  # the list is made anew
                page.locator("#explorer .range").nth(4).click()
                page.locator("#explorer-title").evaluate("title => scrollTo(0, title.offsetTop - 70)")
                page.mouse.move(0, 0)
                page.wait_for_timeout(500)
            halves.append(Image.open(io.BytesIO(page.screenshot())))
    both = Image.new("RGB", (2 * SIZE["width"], SIZE["height"]))
    for place, half in enumerate(halves):
        both.paste(half, (place * SIZE["width"], 0))
    both.quantize(128, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
