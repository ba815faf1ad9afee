"""A real Chromium that opens pages from disk, and tells all that they say, ask for and get wrong."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.optional import require

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Opened:
    """A page, and what it said on the console, threw, and asked of the network."""

    page: Any
    said: list[str] = field(default_factory=list)
    thrown: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def see_all(self) -> None:
        """Scroll through the page until every chart that comes into view is drawn, however long it takes."""
        self.page.evaluate(
            """async () => {
                const missing = () => [...document.querySelectorAll('.chart')].some((chart) => {
                    const { top, bottom, height } = chart.getBoundingClientRect();
                    const inView = height > 0 && bottom > 0 && top < innerHeight;
                    return inView && !chart.querySelector('.main-svg');
                });
                for (let y = 0; y < document.documentElement.scrollHeight; y += innerHeight / 2) {
                    scrollTo({ top: y, behavior: 'instant' });
                    const until = performance.now() + 20000;
                    do await new Promise((done) => setTimeout(done, 100));
                    while (missing() && performance.now() < until);
                }
                scrollTo({ top: 0, behavior: 'instant' });
            }"""
        )

    def see(self, selector: str) -> None:
        """Bring one chart into view, and wait until it is drawn."""
        self.page.locator(selector).evaluate("(chart) => chart.scrollIntoView({ behavior: 'instant' })")
        self.page.wait_for_selector(f"{selector} .main-svg")
        self.page.wait_for_timeout(200)

    def quiet(self) -> bool:
        """Whether nothing was said, thrown or asked for."""
        return not (self.said or self.thrown or self.foreign)

    @property
    def foreign(self) -> list[str]:
        """What was asked for outside the page."""
        return [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))]


def find_chromium() -> str:
    """Return where Chromium is; skip without one, or fail where REPSTAT_REQUIRE_BROWSER=1 promises it."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if os.environ.get("REPSTAT_REQUIRE_BROWSER") == "1":
            pytest.fail(f"none of {', '.join(NAMES)} is installed")
        pytest.skip("no Chromium is installed")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium."""
    where = find_chromium()
    playwright = require("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=where, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any, path: Path, *, width: int = 1280, height: int = 900, **context: Any
) -> Iterator[Opened]:
    """Open a page in a window of its own."""
    window = browser.new_context(viewport={"width": width, "height": height}, offline=True, **context)
    page = window.new_page()
    found = Opened(page)
    page.on("console", lambda message: found.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: found.thrown.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("file:", "data:")) else found.asked.append(request.url)
        ),
    )
    try:
        page.goto(path.resolve().as_uri())
        if context.get("java_script_enabled", True):
            page.wait_for_selector("html[data-ready=yes]")
        yield found
    finally:
        window.close()
