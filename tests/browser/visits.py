"""A browser context that notes everything a page must not do: speak to another host, break the policy, log an error."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, Response

from superbatch_server.service.access.auth import COOKIE, new_session
from tests.browser.place import TOKEN, Place

Scheme = Literal["light", "dark"]
WIDE, NARROW = 1280, 360
TALL = 900
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
TIMEOUT_MS = 15_000
NOTE_VIOLATIONS = """
document.addEventListener("securitypolicyviolation",
    (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""


@dataclass
class Visit:
    """One context and its page. `faults` is what it did that no page may do."""

    page: Page
    place: Place
    faults: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    """Addresses that are meant to answer with an error: chromium itself logs that they do."""
    is_calm: bool = True
    """False while the service is down on purpose: chromium logs each request that fails."""

    def open(self, path: str, *, status: int = 200) -> Response:
        """Go to a page of the service, which must answer with this status and under the strict policy."""
        if status >= 400:
            self.refused.add(self.place.url + path)
        answer = self.page.goto(self.place.url + path)
        assert answer is not None
        assert answer.status == status, f"{path}: {answer.status}"
        assert policy_of(answer) == POLICY
        return answer

    def note_console(self, message: ConsoleMessage) -> None:
        """Keep what the console says."""
        if message.type in ("error", "warning") and self.is_calm and message.location["url"] not in self.refused:
            self.faults.append(f"console {message.type}: {message.text} {message.location}")

    def note_dialog(self, dialog: Dialog) -> None:
        """Keep what a script asks the reader; no page asks that way."""
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def note_request(self, request: Request) -> None:
        """Keep a request to anybody else."""
        if urlsplit(request.url).netloc != urlsplit(self.place.url).netloc:
            self.faults.append(f"request to {request.url}")


@contextlib.contextmanager
def a_visit(
    browser: Browser,
    place: Place,
    *,
    scheme: Scheme = "light",
    width: int = WIDE,
    scripts: bool = True,
    signed_in: bool = True,
) -> Iterator[Visit]:
    """Yield a visit; at its end it must have done nothing that no page may do."""
    context = browser.new_context(
        viewport={"width": width, "height": TALL},
        color_scheme=scheme,
        java_script_enabled=scripts,
        reduced_motion="reduce",
        locale="en-GB",
        timezone_id="UTC",
    )
    context.set_default_timeout(TIMEOUT_MS)
    if signed_in:
        cookie = {"name": COOKIE, "value": new_session(TOKEN, now_s=time.time()), "url": place.url}
        context.add_cookies([cookie])  # type: ignore[list-item]
    if scripts:
        context.add_init_script(NOTE_VIOLATIONS)
    visit = Visit(context.new_page(), place)
    context.on("request", visit.note_request)
    context.on("console", visit.note_console)
    visit.page.on("pageerror", lambda error: visit.faults.append(f"script error: {error}"))
    visit.page.on("dialog", visit.note_dialog)
    try:
        yield visit
        assert not visit.faults, "\n".join(visit.faults)
    finally:
        context.close()


def policy_of(answer: Response) -> dict[str, str]:
    """Return the content policy of an answer by directive."""
    header = answer.headers.get("content-security-policy", "")
    parts = (part.strip().partition(" ") for part in header.split(";"))
    return {name: value for name, _, value in parts}


def axe_violations(page: Page) -> list[str]:
    """Return what axe finds, a line for each; through the debugger, because the policy lets no script in."""
    session = page.context.new_cdp_session(page)
    try:
        _evaluate(session, AXE_SCRIPT)
        found = _evaluate(session, "axe.run({resultTypes: ['violations']}).then((r) => JSON.stringify(r.violations))")
    finally:
        session.detach()
    return [
        f"{violation['id']} ({violation['impact']}): {node['target']} {node['html'][:160]} {_said(node)}"
        for violation in json.loads(found)
        for node in violation["nodes"]
    ]


def _said(node: dict[str, Any]) -> str:
    return "; ".join(check["message"] for check in (*node["any"], *node["all"], *node["none"]))[:300]


def _evaluate(session: Any, expression: str) -> Any:
    answer = session.send("Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True})
    assert "exceptionDetails" not in answer, answer
    return answer["result"].get("value")
