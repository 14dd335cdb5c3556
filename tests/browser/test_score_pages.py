"""The pages that read score shards: learnability, examples, why, compare."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.place import HOSTILE, SCORED
from tests.browser.visits import Visit

PAGE_BYTES = 1 << 20


def test_every_chart_has_a_finding_and_its_table(visit: Visit) -> None:
    page = visit.page
    visit.open(f"/jobs/{SCORED}/learnability")
    charts = page.locator("figure.chart")
    assert charts.count() >= 4
    for number in range(charts.count()):
        chart = charts.nth(number)
        assert len(chart.locator("figcaption").inner_text().split()) > 4
        expect(chart.locator("svg[role=img]")).to_have_attribute("aria-label", re.compile(".{20}"))
        expect(chart.locator("table")).to_be_hidden()
        chart.locator("summary").click()
        expect(chart.locator("table")).to_be_visible()
        assert chart.locator("tbody tr").count() > 1
        assert chart.locator("thead th").count() > 1


def test_the_batches_that_are_charted_can_be_chosen(visit: Visit) -> None:
    page = visit.page
    visit.open(f"/jobs/{SCORED}/learnability")
    page.get_by_label("From batch").fill("50")
    page.get_by_label("to batch").fill("55")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile("from=50&to=55"))
    expect(page.locator("#asked")).to_contain_text("6 batches from 50 to 55")


def test_from_an_example_to_why_it_was_chosen(visit: Visit) -> None:
    page = visit.page
    visit.open(f"/jobs/{SCORED}/examples?seq=60")
    for title in ("Best candidates", "Worst candidates", "Random candidates", "Newly selected"):
        section = page.get_by_role("region", name=title)
        assert section.locator("li.card").count() > 0
        expect(section.locator("li.card").first).to_contain_text(re.compile("emoji|flags|material|line"))
    card = page.get_by_role("region", name="Best candidates").locator("li.card").first
    picture = card.locator("img")
    assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
    caption = card.locator(".caption").inner_text()
    assert picture.get_attribute("alt") == caption

    card.get_by_role("link", name="Why, row").click()
    expect(page.get_by_role("heading", level=2).first).to_contain_text(re.compile("Why row [0-9,]+ is in batch 60"))
    expect(page.locator("#asked")).to_contain_text(caption)
    expect(page.locator("#asked")).to_contain_text(re.compile("round [0-9]+ of 16"))
    expect(page.locator("#asked")).to_contain_text(re.compile("generation 1"))
    rivals = page.locator("#rivals tbody tr")
    assert rivals.count() > 1
    expect(page.locator("#rivals tr.here")).to_contain_text("this row")
    rivals.locator("a").first.click()
    expect(page.get_by_role("heading", level=2).first).to_contain_text("in batch 60")


def test_a_row_that_was_not_chosen_or_is_none_is_explained_too(visit: Visit) -> None:
    page = visit.page
    visit.open(f"/jobs/{SCORED}/why?seq=60")
    page.get_by_label("Row: dataset_index or uid").fill("999999")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".said-answer")).to_contain_text(re.compile("no|not"))
    visit.open(f"/jobs/{SCORED}/why?seq=60&row={visit.place.passed_over_row(60)}")
    expect(page.get_by_role("heading", level=2).first).to_contain_text("is not in batch 60")


def test_two_generations_are_compared(visit: Visit) -> None:
    page = visit.page
    visit.open(f"/jobs/{SCORED}/compare")
    page.get_by_label("From (seq, or g3)").fill("g1")
    page.get_by_label("to (seq, or g3)", exact=True).fill("g2")
    page.get_by_role("button", name="Compare").click()
    expect(page).to_have_url(re.compile(r"\?a=g1&b=g2$"))
    for title in ("Largest risers", "Largest fallers"):
        assert page.get_by_role("region", name=title).locator("li.card").count() > 0
    chart = page.locator("figure.chart")
    expect(chart).to_have_count(1)
    chart.locator("summary").click()
    assert chart.locator("tbody tr").count() > 1


def test_hostile_captions_stay_text(visit: Visit) -> None:
    """Markup, control characters, a change of direction, a megabyte: shown as text, in full view or cut."""
    page = visit.page
    for path in (f"/jobs/{HOSTILE}", f"/jobs/{HOSTILE}/examples?seq=49", f"/jobs/{HOSTILE}/why?seq=49&row=0"):
        visit.open(path)
        assert len(page.content()) < PAGE_BYTES
        assert page.locator("main script, main [onerror], main [onload]").count() == 0
        expect(page.get_by_role("heading", level=1)).to_contain_text("<img src=x onerror=")
        assert page.evaluate("document.title").endswith("Superbatch")
        assert re.search("[\x00-\x08\x0b\x0e-\x1f\x7f\u202a-\u202e]", page.inner_text("main")) is None
