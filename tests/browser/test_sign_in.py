"""A browser is let in by a one-time code, once."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from superbatch_server.service.access.auth import COOKIE
from tests.browser.place import Place
from tests.browser.visits import a_visit


def test_a_one_time_code_signs_in_once(browser: Browser, place: Place) -> None:
    address = place.login_url()
    with a_visit(browser, place, signed_in=False) as visit:
        visit.open("/", status=401)
        expect(visit.page.get_by_role("heading", level=1)).to_have_text("Sign in")
        expect(visit.page.get_by_text("superbatch dashboard")).to_be_visible()
        visit.page.goto(address)
        expect(visit.page).to_have_url(f"{place.url}/")
        expect(visit.page.get_by_role("heading", level=1)).to_contain_text("Jobs")
        [cookie] = visit.page.context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == (COOKIE, True, "Strict")
        assert visit.page.evaluate("document.cookie") == ""

    with a_visit(browser, place, signed_in=False) as other:
        other.refused.add(address)
        answer = other.page.goto(address)
        assert answer is not None
        assert answer.status == 401
        assert "works once" in other.page.inner_text("body")
        assert other.page.context.cookies() == []
        other.open("/", status=401)


def test_signing_out_elsewhere_shows_on_an_open_page(browser: Browser, place: Place) -> None:
    with a_visit(browser, place) as visit:
        visit.open("/")
        visit.refused |= {f"{place.url}/live/home", f"{place.url}/"}
        visit.page.context.clear_cookies()
        expect(visit.page.get_by_role("heading", level=1)).to_have_text("Sign in")
