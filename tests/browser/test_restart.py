"""The service goes away under an open page and comes back."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.visits import Visit


def test_an_open_page_says_that_it_is_old_and_recovers(visit: Visit) -> None:
    page, place = visit.page, visit.place
    job_id = place.jobs["running"]
    visit.open(f"/jobs/{job_id}")
    page.evaluate("window.isTheSamePage = true")
    before = page.locator("#figures").inner_text()
    visit.is_calm = False
    place.stop()
    try:
        expect(page.get_by_role("status")).to_contain_text("Not current since")
        assert page.locator("#figures").inner_text() == before
        published = place.publish(job_id, 2)
    finally:
        place.start()
    expect(page.locator("#status")).to_contain_text(f"{published} of 400")
    expect(page.locator("#live-note")).to_be_hidden()
    assert page.evaluate("window.isTheSamePage") is True
