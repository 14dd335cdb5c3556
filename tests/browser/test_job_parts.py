"""Quarantine, logs and health."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.place import GROWING, HOSTILE, SCORED
from tests.browser.visits import Visit


def test_quarantined_rows_are_shown_with_their_reasons(visit: Visit) -> None:
    page = visit.page
    visit.open(f"/jobs/{SCORED}/quarantine")
    quarantined = visit.place.pools["sample"].quarantined
    assert quarantined
    expect(page.locator("#reasons tbody tr")).to_have_count(len(quarantined))
    expect(page.locator("#rows-table tbody tr")).to_have_count(sum(quarantined.values()))
    reason = min(quarantined)
    page.locator("#reasons").get_by_role("link", name=reason.replace("_", " ")).click()
    expect(page).to_have_url(re.compile(f"reason={reason}"))
    expect(page.locator("#rows-table tbody tr")).to_have_count(quarantined[reason])
    page.get_by_role("link", name="all reasons").click()
    expect(page.locator("#rows-table tbody tr")).to_have_count(sum(quarantined.values()))


def test_the_log_is_followed_while_the_job_runs(visit: Visit) -> None:
    page, place = visit.page, visit.place
    place.log(GROWING, "the first line\n")
    visit.open(f"/jobs/{GROWING}/logs")
    expect(page.locator("#log-text")).to_contain_text("the first line")
    page.evaluate("window.isTheSamePage = true")
    place.log(GROWING, "".join(f"line {number}\n" for number in range(100)))
    expect(page.locator("#log-text")).to_contain_text("line 99")
    assert page.evaluate("window.isTheSamePage") is True


def test_a_long_hostile_log_is_read_in_parts(visit: Visit) -> None:
    page = visit.page
    visit.open(f"/jobs/{HOSTILE}/logs")
    expect(page.locator("#log-text")).to_contain_text("<script>")
    assert page.locator("main script").count() == 0
    page.get_by_role("link", name="Older").click()
    expect(page.locator("#log-text")).to_contain_text("x" * 1000)
    page.get_by_role("link", name="Beginning").click()
    expect(page.locator("#log-title")).to_contain_text("bytes 0 to")
    page.get_by_role("link", name="Newer").click()
    expect(page.locator("#log-title")).not_to_contain_text("bytes 0 to")
    page.get_by_role("link", name="End").click()
    expect(page.get_by_role("link", name="Newer")).to_have_count(0)


def test_a_missing_supervisor_is_said_and_not_a_silent_queue(visit: Visit) -> None:
    page, place = visit.page, visit.place
    said = "No supervisor looks at the queue"
    place.supervisors_are_seen(ago_s=600)
    try:
        visit.open("/")
        expect(page.get_by_role("alert")).to_contain_text(said)
        page.get_by_role("alert").get_by_role("link", name="Health").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Something needs a look")
        expect(page.get_by_role("alert")).to_contain_text(said)
        expect(page.locator("#supervisors")).to_contain_text("silent")
        visit.open(f"/jobs/{place.jobs['queued']}")
        expect(page.locator("#status")).to_contain_text(re.compile("no supervisor", re.IGNORECASE))
        visit.open("/health")
    finally:
        place.supervisors_are_seen(ago_s=-3600)
    expect(page.locator("#supervisors")).to_contain_text("live")
    expect(page.locator("main")).not_to_contain_text(said)


def test_health_shows_disks_and_versions(visit: Visit) -> None:
    visit.open("/health")
    expect(visit.page.locator("#disks tbody tr")).not_to_have_count(0)
    expect(visit.page.locator("#disks tbody")).to_contain_text(re.compile("[GTMK]iB"))
    expect(visit.page.locator("#versions")).to_contain_text(re.compile(r"\d+\.\d+"))
