"""Every number on a job's page equals the answer of `GET /v1/jobs/{job}/stats`."""

from __future__ import annotations

import json
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from superbatch_server.service.routes import jobs
from tests.service.dashboard.conftest import make_app, sign_in
from tests.service.dashboard.seed import Made

CURVES = ("job", "sources", "segments", "schedule", "counters", "quarantined")
"""Fields that are no single number; sources, counters and the quarantine are compared one by one."""


class Numbers(HTMLParser):
    """Collects `<data data-stat=NAME value=JSON>text</data>`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, Any, str]] = []
        self._name: tuple[str, Any] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "data":
            by_name = dict(attrs)
            self._name = (by_name["data-stat"] or "", json.loads(by_name["value"] or ""))
            self.found.append((*self._name, ""))

    def handle_data(self, data: str) -> None:
        if self._name is not None:
            self.found[-1] = (*self._name, self.found[-1][2] + data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "data":
            self._name = None


@pytest.fixture
def client(engine: Engine, made: Made, tmp_path: Path) -> TestClient:
    app = make_app(engine, tmp_path)
    app.include_router(jobs.router)
    return sign_in(TestClient(app), now_s=time.time())


def expected_of(stats: dict[str, Any]) -> dict[str, Any]:
    """Return every number of an answer of /stats by the name it has on the page."""
    flat = {name: value for name, value in stats.items() if name not in CURVES}
    for source, one in stats["sources"].items():
        flat.update({f"sources.{source}.{name}": value for name, value in one.items()})
    for name in ("quarantined", "counters"):
        flat.update({f"{name}.{key}": value for key, value in stats[name].items()})
    return flat


def is_said(text: str, value: Any) -> bool:
    """Claim that a text says a value: exactly, or rounded to the decimals that it has."""
    if value is None:
        return text in ("–", "null")
    if isinstance(value, bool | str):
        return text == json.dumps(value)
    number = float(text.replace(",", ""))
    decimals = len(text.partition(".")[2])
    return number == value or (isinstance(value, float) and round(value, decimals) == number)


@pytest.mark.parametrize("what", ["running", "done", "indexing", "queued", "failed", "uniform"])
def test_every_number_on_the_page_is_that_of_stats(client: TestClient, made: Made, what: str) -> None:
    expected = expected_of(client.get(f"/v1/jobs/{made.jobs[what]}/stats").json())
    parsed = Numbers()
    parsed.feed(client.get(f"/jobs/{made.jobs[what]}").text)
    assert len(parsed.found) > 20
    for name, value, text in parsed.found:
        assert value == expected[name], name
        assert is_said(text, value), (name, text, value)


def test_no_number_of_stats_is_missing(client: TestClient, made: Made) -> None:
    parsed = Numbers()
    parsed.feed(client.get(f"/jobs/{made.jobs['running']}").text)
    shown = {name for name, _, _ in parsed.found}
    stats = client.get(f"/v1/jobs/{made.jobs['running']}/stats").json()
    single = {name for name in stats if name not in CURVES}
    of_sources = {
        f"sources.{source}.{name}"
        for source in stats["sources"]
        for name in ("rows", "eligible", "candidates", "selected", "filter_ratio", "lift")
    }
    assert single | of_sources | {f"quarantined.{reason}" for reason in stats["quarantined"]} <= shown
