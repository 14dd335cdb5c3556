"""Scripts off: every page is complete, forms work, only nothing moves by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.addresses import ADDRESSES
from tests.browser.place import SCORED, Place
from tests.browser.visits import Visit, a_visit


@pytest.fixture
def plain(browser: Browser, place: Place) -> Iterator[Visit]:
    """Open a context that runs no script."""
    with a_visit(browser, place, scripts=False) as visit:
        yield visit


@pytest.mark.parametrize("is_variant", [False, pytest.param(True, marks=pytest.mark.long)])
def test_every_page_can_be_read(plain: Visit, is_variant: bool) -> None:
    place = plain.place
    for address in ADDRESSES:
        if address.signed_in and address.is_variant == is_variant:
            plain.open(address.of(place), status=address.status)
            assert len(plain.page.inner_text("main")) > 20, address.name
            expect(plain.page.get_by_role("heading", level=1)).to_be_visible()


def test_a_page_is_refreshed_by_a_link(plain: Visit) -> None:
    job_id = plain.place.jobs["running"]
    plain.open(f"/jobs/{job_id}")
    published = plain.place.publish(job_id, 1)
    plain.page.get_by_role("link", name="Refresh").click()
    expect(plain.page.locator("#status")).to_contain_text(f"{published} of 400")


def test_a_job_is_cancelled(plain: Visit) -> None:
    job_id = plain.place.submit("cancelled without scripts")
    plain.open(f"/jobs/{job_id}")
    plain.page.get_by_role("link", name="Cancel…").click()
    plain.page.get_by_role("button", name="Cancel this job").click()
    expect(plain.page.locator("#status .state")).to_have_text("cancelled")
    assert plain.place.job(job_id).state == "CANCELLED"


def test_a_chart_is_drawn_and_its_table_opens(plain: Visit) -> None:
    plain.open(f"/jobs/{SCORED}/learnability")
    chart = plain.page.locator("figure.chart").first
    box = chart.locator("svg.plot").bounding_box()
    assert box is not None
    assert box["width"] > 300
    chart.locator("summary").click()
    expect(chart.locator("table")).to_be_visible()


def test_a_form_asks_for_another_batch(plain: Visit) -> None:
    plain.open(f"/jobs/{SCORED}/examples")
    plain.page.get_by_role("spinbutton", name="Batch").fill("60")
    plain.page.get_by_role("button", name="Show").click()
    expect(plain.page.get_by_role("heading", level=2).first).to_contain_text("Batch 60")
