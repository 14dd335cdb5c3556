"""Quarantined rows come from the index files, page by page, whatever stands in their captions."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, delete

from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.tables import cache
from superbatch_server.service.dashboard.quarantine_page import PAGE_ROWS, read_quarantine_page
from superbatch_server.storage.store import ArtifactStore, open_store
from tests.service.dashboard.conftest import make_app, sign_in
from tests.service.dashboard.files import BAD_ROWS, put_index, put_indexes
from tests.service.dashboard.seed import SOURCES, Made
from tests.service.dashboard.test_pages import outline


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def client(own_engine: Engine, tmp_path: Path) -> TestClient:
    return sign_in(TestClient(make_app(own_engine, tmp_path)), now_s=time.time())


def keys(html: str) -> list[str]:
    return re.findall(r'<tr id="(bad-\d+-\d+)">', html)


def test_rows_stand_with_key_place_reason_and_caption(
    client: TestClient, own_engine: Engine, own: Made, store: ArtifactStore
) -> None:
    with write(own_engine) as connection:
        put_indexes(connection, store)
    html = client.get(f"/jobs/{own.jobs['running']}/quarantine").text
    assert len(keys(html)) == len(BAD_ROWS) * len(SOURCES)
    assert "11 rows were quarantined, most often for" in html
    row = html.partition('id="bad-1-7"')[2].partition("</tr>")[0]
    assert ">1,187<" in row, "its dataset_index: 1,180 rows of the first shard, and 7"
    assert "bad-0" in row
    assert "undecodable image" in row
    assert "pool-01.tar" in row
    assert "&lt;script&gt;alert(1)" in row


def test_hostile_captions_are_harmless_and_short(
    client: TestClient, own_engine: Engine, own: Made, store: ArtifactStore
) -> None:
    with write(own_engine) as connection:
        put_indexes(connection, store)
    html = client.get(f"/jobs/{own.jobs['running']}/quarantine").text
    found = outline(html)
    assert found.tags.count("script") == 1
    assert "img" not in found.tags
    assert "[U+202E]gnp.exe[U+2066]" in html
    assert "[ESC][31mred" in html
    assert "(1,048,576 characters)" in html
    assert not set(html) & {"\u202e", "\u2066", "\x1b", "\x07", "\0"}
    assert len(html) < 60_000


def test_one_reason_and_every_page(client: TestClient, own_engine: Engine, own: Made, store: ArtifactStore) -> None:
    bad = [(f"key-{i}", "empty_caption" if i % 2 else "undecodable_image", None) for i in range(130)]
    with write(own_engine) as connection:
        put_index(connection, store, "pool-00.tar", bad, num_rows=1000)
        put_index(connection, store, "pool-02.tar", bad[:9], num_rows=100)
    base = f"/jobs/{own.jobs['running']}/quarantine"
    seen: list[list[str]] = []
    address = f"{base}?reason=empty_caption"
    while address:
        html = client.get(address).text
        seen.append(keys(html))
        following = re.search(r'<a href="([^"]+)" rel="next"', html)
        address = base + following[1].replace("&amp;", "&") if following else ""
    assert [len(page) for page in seen] == [PAGE_ROWS, 69 - PAGE_ROWS]
    every = [key for page in seen for key in page]
    assert every == [f"bad-0-{7 * (i + 1)}" for i in range(1, 130, 2)] + [
        f"bad-2-{7 * (i + 1)}" for i in range(1, 9, 2)
    ]


def test_the_token_of_another_reason_is_refused(
    client: TestClient, own_engine: Engine, own: Made, store: ArtifactStore
) -> None:
    with write(own_engine) as connection:
        put_index(connection, store, "pool-00.tar", [(f"k{i}", "a", None) for i in range(60)], num_rows=500)
    base = f"/jobs/{own.jobs['running']}/quarantine"
    token = re.search(r"page_token=([\w-]+)", client.get(base).text)
    assert token is not None
    assert client.get(f"{base}?page_token={token[1]}").status_code == 200
    for address in (f"{base}?reason=a&page_token={token[1]}", f"{base}?page_token=e17"):
        assert client.get(address).status_code == 422


def test_files_without_a_bad_row_are_not_opened(own_engine: Engine, own: Made, store: ArtifactStore) -> None:
    with write(own_engine) as connection:
        put_index(connection, store, "pool-00.tar", [], num_rows=100)
        put_index(connection, store, "pool-01.tar", [("k", "empty_caption", None)], num_rows=100)
    opened: list[str] = []

    class Counting:
        def get(self, key: str) -> bytes:
            opened.append(key)
            return store.get(key)

    page = read_quarantine_page(own_engine, Counting(), own.jobs["running"], reason=None, token=None)  # type: ignore[arg-type]
    assert [row.key for row in page.rows] == ["k"]
    assert len(opened) == 1


def test_a_file_that_is_gone_is_told_and_the_others_are_shown(
    client: TestClient, own_engine: Engine, own: Made, store: ArtifactStore, tmp_path: Path
) -> None:
    with write(own_engine) as connection:
        put_indexes(connection, store)
    broken = sorted((tmp_path / "store" / "cache" / "index").rglob("*.parquet"))[:1]
    broken[0].write_bytes(b"no Parquet")
    html = client.get(f"/jobs/{own.jobs['running']}/quarantine").text
    assert len(keys(html)) == len(BAD_ROWS) * (len(SOURCES) - 1)
    assert "could not be read" in html


def test_before_the_pass_is_over_rows_that_are_known_are_shown(
    client: TestClient, own_engine: Engine, own: Made, store: ArtifactStore
) -> None:
    path = f"/jobs/{own.jobs['indexing']}/quarantine"
    assert "3 rows so far" in client.get(path).text
    with write(own_engine) as connection:
        put_index(connection, store, "pool-01.tar", [("k", "empty_caption", None)], num_rows=100)
    html = client.get(path).text
    assert "1 row was quarantined so far, most often for" in html
    assert "data-live" in html
    with write(own_engine) as connection:
        connection.execute(delete(cache))
    assert keys(client.get(path).text) == []
