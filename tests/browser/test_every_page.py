"""Every page, light and dark, wide and narrow: accessible, quiet, strict, and no wider than its window."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.browser.addresses import ADDRESSES, Address
from tests.browser.place import Place
from tests.browser.visits import NARROW, WIDE, Scheme, a_visit, axe_violations

OPEN_ALL = "for (const details of document.querySelectorAll('details')) details.open = true"
TOO_WIDE = """() => [...document.querySelectorAll("body *")]
    .filter((element) => element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".scroll"))
    .map((element) => element.outerHTML.slice(0, 120)).slice(0, 5)"""


def _addresses() -> list[object]:
    long = pytest.mark.long
    return [pytest.param(each, id=each.name, marks=[long] if each.is_variant else []) for each in ADDRESSES]


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", WIDE),
        ("dark", NARROW),
        pytest.param("light", NARROW, marks=pytest.mark.long),
        pytest.param("dark", WIDE, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("address", _addresses())
def test_a_page_is_accessible_quiet_and_strict(
    browser: Browser, place: Place, address: Address, scheme: Scheme, width: int
) -> None:
    with a_visit(browser, place, scheme=scheme, width=width, signed_in=address.signed_in) as visit:
        visit.open(address.of(place), status=address.status)
        page = visit.page
        assert page.locator("h1").count() == 1
        assert page.locator("h1").inner_text().strip()
        assert page.title().endswith("Superbatch")
        if (scheme, width) == ("light", WIDE) or address.is_variant:
            page.evaluate(OPEN_ALL)
        assert axe_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width, page.evaluate(TOO_WIDE)
        for picture in page.locator("img").all():
            picture.scroll_into_view_if_needed()
        pictures_are_here = "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
        page.wait_for_function(pictures_are_here)
