"""The log of an attempt: its end first, every byte on some page, nothing in it can act on the page."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from superbatch_server.service.catalog.engine import write
from superbatch_server.service.dashboard.logs_page import PART_BYTES
from tests.service.dashboard.conftest import make_app, sign_in
from tests.service.dashboard.files import put_log
from tests.service.dashboard.seed import HOSTILE, Made
from tests.service.dashboard.test_pages import outline

LINES = [f"line {i:05} of a long log" for i in range(4000)]


@pytest.fixture
def client(own_engine: Engine, own: Made, tmp_path: Path) -> TestClient:
    with write(own_engine) as connection:
        put_log(connection, own.jobs["running"], tmp_path / "logs" / "one.log", "\n".join(LINES).encode())
        hostile = f"{HOSTILE}\n\x1b[2J\x07\u202eevil\n\xff".encode() + b"\xff\xfe"
        put_log(connection, own.jobs["failed"], tmp_path / "logs" / "two.log", hostile)
    return sign_in(TestClient(make_app(own_engine, tmp_path)), now_s=time.time())


def shown(html: str) -> str:
    found = re.search(r'<pre id="log-text".*?<code>(.*?)</code>', html, re.DOTALL)
    assert found is not None
    return re.sub(r"</?bdi>", "", found[1])


def test_the_end_comes_first_and_begins_with_a_whole_line(client: TestClient, own: Made) -> None:
    html = client.get(f"/jobs/{own.jobs['running']}/logs").text
    lines = shown(html).split("\n")
    assert lines == LINES[-len(lines) :]
    assert "data-live" in html, "the job runs"
    assert 'href="#log-end"' in html


def test_every_byte_stands_on_some_page(client: TestClient, own: Made) -> None:
    base, query = f"/jobs/{own.jobs['running']}/logs", "?attempt=1&after=0"
    text = ""
    for _ in range(20):
        html = client.get(base + query).text
        text += shown(html)
        following = re.search(r'<a href="([^"]+)" rel="next"', html)
        if following is None:
            break
        query = following[1].replace("&amp;", "&")
    assert text.split("\n") == LINES
    assert len("\n".join(LINES)) > 2 * PART_BYTES


def test_a_log_cannot_act_on_the_page(client: TestClient, own: Made) -> None:
    html = client.get(f"/jobs/{own.jobs['failed']}/logs").text
    assert outline(html).tags.count("script") == 1
    assert "[ESC][2J[U+0007][U+202E]evil" in html
    assert not set(html) & {"\x1b", "\x07", "\u202e"}
    assert "data-live" not in html, "the attempt is over"


def test_what_is_not_there_is_said(client: TestClient, own: Made, tmp_path: Path) -> None:
    outside = client.get(f"/jobs/{own.jobs['done']}/logs").text
    assert "must lie in the service" in outside
    assert "No process has begun yet" in client.get(f"/jobs/{own.jobs['queued']}/logs").text
    (tmp_path / "logs" / "one.log").unlink()
    assert "must be a file that this process can read" in client.get(f"/jobs/{own.jobs['running']}/logs").text


@pytest.mark.parametrize("query", ["attempt=-1", "attempt=x", "after=1e9", "attempt=99", "after=9999999"])
def test_a_bad_place_is_refused(client: TestClient, own: Made, query: str) -> None:
    answer = client.get(f"/jobs/{own.jobs['running']}/logs?{query}")
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"].startswith("text/html")
