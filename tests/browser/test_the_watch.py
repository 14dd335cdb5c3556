"""What the other tests rely on: whatever a page must not do is noticed."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.browser.place import Place
from tests.browser.visits import Visit, a_visit, axe_violations

FAULTS = {
    "style-src ": "document.body.setAttribute('style', 'margin: 1px')",
    "script-src ": "document.body.append(Object.assign(document.createElement('script'), {text: '1'}))",
    "connect-src ": "fetch('http://127.0.0.2:9/').catch(() => 0)",
    "img-src ": "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.2:9/x.png'}))",
    "console warning: careful": "console.warn('careful')",
    "script error: broken": "setTimeout(() => { throw new Error('broken') })",
    "dialog: hello": "alert('hello')",
    "404": "fetch('/static/none.js').then(() => 0)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_page_is_noticed(browser: Browser, place: Place, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        _commit(browser, place, FAULTS[fault])


def _commit(browser: Browser, place: Place, script: str) -> None:
    with a_visit(browser, place) as visit:
        visit.open("/health")
        visit.page.evaluate(f"() => {{ {script} }}")
        while not visit.faults:  # the test's own time-out ends it
            visit.page.wait_for_timeout(10)


def test_axe_finds_what_is_wrong(visit: Visit) -> None:
    visit.open("/health")
    visit.page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    [found] = axe_violations(visit.page)
    assert found.startswith("button-name (critical)")
