"""One chromium and one service for all browser tests; without chromium they are skipped and say why."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.place import Place, a_place
from tests.browser.visits import TIMEOUT_MS, Visit, a_visit

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WHY_NOT = "no chromium is installed (apt-get install chromium); nothing is downloaded"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip each test of this folder by itself, so that the summary counts them."""
    here = Path(__file__).parent
    for item in items:
        if CHROMIUM is None and item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason=WHY_NOT))


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Start chromium. It ends with this folder's tests, because playwright occupies the thread's event loop."""
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Serve the seeded catalog to every test that changes only jobs of its own."""
    with a_place(tmp_path_factory.mktemp("place")) as place:
        yield place


@pytest.fixture
def visit(browser: Browser, place: Place) -> Iterator[Visit]:
    """Open a signed-in context of 1280 px, light; whatever it must never do fails the test at its end."""
    with a_visit(browser, place) as visit:
        yield visit


@pytest.fixture
def page(visit: Visit) -> Page:
    """Return the visit's page."""
    return visit.page
