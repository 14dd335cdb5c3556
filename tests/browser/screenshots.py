"""`python -m tests.browser.screenshots`: draw the README's pictures of the dashboard anew.

They show the made-up job of the browser tests, or a page of a running service: `--login` takes an address that
`superbatch dashboard` prints, `--path` the page, such as /jobs/<id>.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM, WHY_NOT
from tests.browser.place import SCORED, a_place

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDTH, HEIGHT = 1280, 1070
BATCHES = 263
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def main() -> None:
    """Write dashboard.png and dashboard-dark.png."""
    parser = argparse.ArgumentParser(description="Draw the README's pictures of the dashboard anew.")
    parser.add_argument("--login", help="address that signs in once; default: a made-up service")
    parser.add_argument("--path", default=f"/jobs/{SCORED}", help="page to draw")
    parser.add_argument("--height", type=int, default=HEIGHT)
    parser.add_argument("--name", default="dashboard", help="name of the files")
    asked = parser.parse_args()
    if CHROMIUM is None:
        raise SystemExit(WHY_NOT)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        if asked.login:
            _draw(browser, asked.login, asked)
        else:
            with a_place(Path(folder), scored_batches=BATCHES) as place:
                _draw(browser, place.login_url(), asked)
        browser.close()


def _draw(browser: Browser, login: str, asked: argparse.Namespace) -> None:
    page = browser.new_page(viewport={"width": WIDTH, "height": asked.height}, color_scheme="light")
    page.goto(login)
    page.goto(login.partition("/login")[0] + asked.path)
    page.wait_for_load_state("networkidle")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        path = IMAGES / f"{asked.name}{'' if scheme == 'light' else '-dark'}.png"
        page.screenshot(path=path)
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
