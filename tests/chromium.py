"""Debian's Chromium driven by Playwright: pages that may ask nobody, and what they complained of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--disable-quic", "--hide-scrollbars", "--force-color-profile=srgb",
]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser; skips, saying why, where the machine has none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `test`)")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine (Debian package chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, url: str, **context: Any) -> Iterator[Any]:
    """A page of its own context; `page.complaints` gathers console messages, errors and requests to anywhere else."""
    with browser.new_context(viewport={"width": 1280, "height": 900}, **context) as alone:
        page = alone.new_page()
        page.set_default_timeout(60_000)
        page.complaints = []

        def asked(request: Any) -> None:
            if not request.url.startswith((url, "data:", "blob:")):
                page.complaints.append(f"request to {request.url}")

        page.on("console", lambda message: page.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: page.complaints.append(f"error: {error}"))
        page.on("request", asked)
        page.goto(url)
        yield page
