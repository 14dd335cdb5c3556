"""One job: live while it runs, the numbers of the API, cancel and retry behind a question."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import expect

from tests.browser.place import SCORED
from tests.browser.visits import Visit

NUMBERS = "(all) => all.map((each) => [each.dataset.stat, JSON.parse(each.value)])"


def test_a_running_job_is_followed_without_a_reload(visit: Visit) -> None:
    """Nothing that the reader did is lost: focus, an opened table, the place on the page, a selection."""
    page, place = visit.page, visit.place
    job_id = place.jobs["running"]
    visit.open(f"/jobs/{job_id}")
    page.evaluate("window.isTheSamePage = true")
    page.locator("#spec summary").click()
    page.locator(".chart details summary").first.click()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#record-title'))")
    page.locator("#spec summary").focus()
    page.evaluate("scrollTo(0, 400)")
    published = place.publish(job_id, 3)

    expect(page.locator("#status")).to_contain_text(f"{published} of 400")
    assert page.evaluate("window.isTheSamePage") is True
    assert page.evaluate("document.activeElement.parentElement.id") == "spec"
    assert page.evaluate("getSelection().toString()") == "Record"
    assert page.evaluate("scrollY") == 400
    assert page.locator("#spec").get_attribute("open") is not None
    assert page.locator(".chart details").first.get_attribute("open") is not None
    expect(page.locator("#live-note")).to_be_hidden()


def test_the_numbers_of_the_page_are_those_of_the_api(visit: Visit) -> None:
    visit.open(f"/jobs/{SCORED}")
    shown: list[tuple[str, Any]] = visit.page.locator("data[data-stat]").evaluate_all(NUMBERS)
    stats = visit.page.evaluate("(path) => fetch(path).then((answer) => answer.json())", f"/v1/jobs/{SCORED}/stats")
    assert len(shown) > 20
    wrong = [(name, value, _at(stats, name)) for name, value in shown if _at(stats, name) != value]
    assert wrong == []


def _at(stats: dict[str, Any], name: str) -> Any:
    found: Any = stats
    for part in name.split("."):
        key = next((each for each in (name.split(".", 1)[-1],) if isinstance(found, dict) and each in found), part)
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def test_a_job_is_cancelled_after_a_question(visit: Visit) -> None:
    page, place = visit.page, visit.place
    job_id = place.submit("to be cancelled")
    visit.open(f"/jobs/{job_id}")
    page.get_by_role("link", name="Cancel…").click()
    expect(page.get_by_role("heading", level=2)).to_have_text("Cancel this job?")
    expect(page.locator("#question")).to_contain_text("cannot be retried")
    page.get_by_role("link", name="Leave it as it is").click()
    expect(page).to_have_url(f"{place.url}/jobs/{job_id}")
    assert place.job(job_id).state == "QUEUED"

    page.get_by_role("link", name="Cancel…").click()
    page.get_by_role("button", name="Cancel this job").click()
    expect(page).to_have_url(f"{place.url}/jobs/{job_id}")
    expect(page.locator("#status .state")).to_have_text("cancelled")
    expect(page.get_by_role("link", name="Cancel…")).to_have_count(0)
    assert place.job(job_id).state == "CANCELLED"


def test_a_failed_job_is_retried_and_goes_on(visit: Visit) -> None:
    page, place = visit.page, visit.place
    job_id = place.submit("to be retried", state="FAILED", error_code="shard_changed", error="a shard must not change")
    visit.open(f"/jobs/{job_id}")
    expect(page.get_by_role("alert")).to_contain_text("a shard must not change")
    page.get_by_role("link", name="Retry…").click()
    page.get_by_role("button", name="Retry this job").click()
    expect(page).to_have_url(f"{place.url}/jobs/{job_id}")
    expect(page.locator("#status .state")).to_have_text("queued")
    expect(page.get_by_role("link", name="Retry…")).to_have_count(0)
    assert (place.job(job_id).state, place.job(job_id).error_code) == ("QUEUED", None)


def test_a_question_that_is_too_late_says_so(visit: Visit) -> None:
    page, place = visit.page, visit.place
    job_id = place.submit("ended meanwhile")
    visit.open(f"/jobs/{job_id}/cancel")
    place.end(job_id, "SUCCEEDED")
    visit.refused |= {f"{place.url}/jobs/{job_id}/cancel"}
    page.get_by_role("button", name="Cancel this job").click()
    expect(page.get_by_role("heading", level=1)).not_to_contain_text("ended meanwhile")
    expect(page.locator("main")).to_contain_text(re.compile("SUCCEEDED", re.IGNORECASE))
    assert place.job(job_id).state == "SUCCEEDED"
