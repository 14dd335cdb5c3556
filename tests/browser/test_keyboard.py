"""The dashboard with the keyboard alone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.addresses import ADDRESSES, Address
from tests.browser.place import SCORED
from tests.browser.visits import Visit

FOCUSED = """() => {
    const element = document.activeElement, style = getComputedStyle(element), box = element.getBoundingClientRect();
    const all = [...document.querySelectorAll("*")];
    return {
        place: all.indexOf(element),
        name: element.outerHTML.slice(0, 100),
        isBody: element === document.body,
        isOutlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
        isSeen: box.width > 0 && box.height > 0 && box.right > 0 && box.left < innerWidth && box.bottom > 0,
    };
}"""
MOST_STOPS = 400


def test_the_skip_link_comes_first_and_leads_to_the_content(visit: Visit) -> None:
    page = visit.page
    visit.open("/")
    skip = page.get_by_role("link", name="Skip to the content")
    page.keyboard.press("Tab")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


@pytest.mark.parametrize(
    "address",
    [
        pytest.param(each, id=each.name, marks=[] if each.name in ("scored", "why") else [pytest.mark.long])
        for each in ADDRESSES
        if each.status == 200
    ],
)
def test_tab_goes_through_the_page_in_its_order_and_shows_where_it_is(visit: Visit, address: Address) -> None:
    visit.open(address.of(visit.place))
    wanted = visit.page.locator(
        "a[href]:visible, button:visible, input:visible, summary:visible, [tabindex='0']:visible"
    ).count()
    stops = _walk(visit.page)
    places = [stop["place"] for stop in stops]
    assert places == sorted(places)
    assert len(places) == len(set(places)) >= wanted - 1  # the skip link is not visible before it has the focus
    assert [stop["name"] for stop in stops if not (stop["isOutlined"] and stop["isSeen"])] == []


def _walk(page: Page) -> list[dict[str, object]]:
    stops: list[dict[str, object]] = []
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUSED)
        if stop["isBody"] or (stops and stop["place"] == stops[0]["place"]):
            return stops
        stops.append(stop)
    raise AssertionError(f"the focus does not come back after {MOST_STOPS} stops")


def test_a_chart_is_read_and_a_job_cancelled_without_a_mouse(visit: Visit) -> None:
    page, place = visit.page, visit.place
    visit.open(f"/jobs/{SCORED}/learnability")
    page.locator("figure.chart summary").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("figure.chart table").first).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("figure.chart table").first).to_be_hidden()

    job_id = place.submit("cancelled by keys")
    visit.open(f"/jobs/{job_id}")
    page.locator("#cancel").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#confirm")).to_be_visible()
    page.locator("#confirm").focus()
    page.keyboard.press("Space")
    expect(page.locator("#status .state")).to_have_text("cancelled")
