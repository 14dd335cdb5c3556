"""The list of jobs: filter, pages, and the way to a job."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.place import MANY_JOBS
from tests.browser.visits import Visit

NAMES = "table.jobs tbody th a"


def test_jobs_are_filtered_by_state(visit: Visit) -> None:
    page = visit.page
    visit.open("/")
    page.get_by_role("navigation", name="Jobs by state").get_by_role("link", name="failed").click()
    expect(page).to_have_url(f"{visit.place.url}/?state=FAILED")
    expect(page.locator("nav.filter [aria-current]")).to_contain_text("failed")
    states = page.locator("table.jobs tbody .state").all_inner_texts()
    assert set(states) == {"failed"}
    assert "curate emoji, failed" in page.locator(NAMES).all_inner_texts()
    page.get_by_role("navigation", name="Jobs by state").get_by_role("link", name="all").click()
    expect(page.locator("nav.filter [aria-current]")).to_contain_text("all")
    assert len(set(page.locator("table.jobs tbody .state").all_inner_texts())) > 4


def test_the_list_has_pages_and_every_job_is_on_one_of_them(visit: Visit) -> None:
    page = visit.page
    visit.open("/")
    num_jobs = int(page.get_by_role("heading", level=1).locator(".tally").inner_text())
    assert num_jobs > MANY_JOBS
    newest = page.locator(NAMES).all_inner_texts()
    page.get_by_role("link", name="Older").click()
    expect(page).to_have_url(re.compile("page_token="))
    older = page.locator(NAMES).all_inner_texts()
    assert len(newest) + len(older) == num_jobs
    assert not set(page.locator(NAMES).evaluate_all("(all) => all.map((a) => a.href)")) & set(newest)
    page.get_by_role("link", name="Newest").click()
    expect(page).to_have_url(f"{visit.place.url}/")
    assert page.locator(NAMES).all_inner_texts() == newest


def test_a_job_is_opened_from_the_list(visit: Visit) -> None:
    visit.open("/")
    visit.page.get_by_role("link", name="icons, joint").click()
    expect(visit.page.get_by_role("heading", level=1)).to_contain_text("icons, joint on sample-pool")
    visit.page.get_by_role("navigation", name="Breadcrumb").get_by_role("link", name="Jobs").click()
    expect(visit.page).to_have_url(f"{visit.place.url}/")
