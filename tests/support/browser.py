"""A real browser for tests: headless Chromium, driven by Playwright, that may open nothing but files.

`make test` installs Debian's chromium where it can; elsewhere tests that need one are skipped with the way to get it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_MS = 60_000


def executable() -> str:
    """The browser's path; skips the test where there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium: install it (`apt-get install chromium`), or name one in CHROMIUM")
    return found


@contextmanager
def browser() -> Iterator[object]:
    """A running browser with a profile of its own, closed afterwards."""
    from playwright.sync_api import expect, sync_playwright

    path = executable()
    expect.set_options(timeout=PATIENCE_MS)
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        # Crash reports and caches go where the profile goes, not into a home directory that may not be writable.
        environment = os.environ | {"HOME": profile, "XDG_CONFIG_HOME": profile, "XDG_CACHE_HOME": profile}
        launched = playwright.chromium.launch(
            executable_path=path, args=list(ARGUMENTS), env=environment, timeout=PATIENCE_MS
        )
        try:
            yield launched
        finally:
            launched.close()
