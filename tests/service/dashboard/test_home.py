"""The first page: pages of jobs, the filter by state, how fast jobs go, and a queue that nobody looks at."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, delete, event, update

from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.queue import job_row, submit_job
from superbatch_server.service.catalog.tables import supervisors
from superbatch_server.service.dashboard.home_page import PAGE_JOBS, read_home_page
from superbatch_server.service.dashboard.speed import read_speeds
from tests.service.dashboard.conftest import make_app, new_engine, sign_in
from tests.service.dashboard.seed import Made, beat, publish, seed, set_job, spec

NUM_JOBS = 120


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A catalog of the made-up jobs and 120 more, of which every third failed."""
    engine = new_engine(tmp_path_factory.mktemp("many"))
    seed(engine)
    with write(engine) as connection:
        for i in range(NUM_JOBS):
            job_id = f"job_f{i:015x}"
            submit_job(connection, spec(name=f"sweep {i}"), job_id=job_id)
            set_job(connection, job_id, state="FAILED" if i % 3 == 0 else "SUCCEEDED", created_ms=1_000_000 + i // 4)
    yield engine
    engine.dispose()


def links(html: str, name: str) -> list[str]:
    """Return the job ids of a page's table, or the addresses of links with rel=`name`."""
    if name == "jobs":
        return re.findall(r'<tr id="row-(job_\w+)">', html)
    return [each.replace("&amp;", "&") for each in re.findall(rf'<a href="([^"]+)" rel="{name}"', html)]


def walk(client: TestClient, address: str) -> list[list[str]]:
    """Return the jobs of every page from `address` on, by following "Older"."""
    found = []
    while address:
        html = client.get(address).text
        found.append(links(html, "jobs"))
        address = next(iter(links(html, "next")), "")
    return found


def test_every_job_stands_on_exactly_one_page(many: Engine, tmp_path: Path) -> None:
    client = sign_in(TestClient(make_app(many, tmp_path)), now_s=time.time())
    pages = walk(client, "/")
    every = [job for page in pages for job in page]
    assert [len(page) for page in pages] == [PAGE_JOBS, PAGE_JOBS, NUM_JOBS + 10 - 2 * PAGE_JOBS]
    assert len(set(every)) == len(every) == NUM_JOBS + 10
    assert f">{NUM_JOBS + 10}<" in client.get("/").text


def test_the_filter_shows_one_state_on_every_page(many: Engine, tmp_path: Path) -> None:
    client = sign_in(TestClient(make_app(many, tmp_path)), now_s=time.time())
    failed = [job for page in walk(client, "/?state=FAILED") for job in page]
    assert len(failed) == NUM_JOBS // 3 + 2
    html = client.get("/?state=FAILED").text
    assert 'href="/?state=FAILED" aria-current="true"' in html
    assert 'data-live="/live/home?state=FAILED"' in html
    assert links(client.get("/live/home?state=FAILED").text, "jobs") == links(html, "jobs")


def test_the_token_of_another_list_and_an_unknown_state_are_refused(many: Engine, tmp_path: Path) -> None:
    client = sign_in(TestClient(make_app(many, tmp_path)), now_s=time.time())
    of_all = links(client.get("/").text, "next")[0]
    for address in (f"{of_all}&state=SUCCEEDED", "/?page_token=nonsense", "/?state=SLEEPING", f"/?state={'x' * 300}"):
        answer = client.get(address)
        assert answer.status_code == 422, address
        assert answer.headers["content-type"].startswith("text/html")


def test_the_number_of_queries_does_not_grow_with_the_jobs(many: Engine, own_engine: Engine) -> None:
    def statements(engine: Engine) -> int:
        seen: list[str] = []
        event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
        with read(engine) as connection:
            read_home_page(connection)
        return len(seen)

    assert statements(many) <= statements(own_engine) < 40


def test_a_running_job_has_rows_per_second_and_a_time_left(engine: Engine, made: Made) -> None:
    with read(engine) as connection:
        row = job_row(connection, made.jobs["running"])
        newest_ms = now_ms(connection)
        speed = read_speeds(connection, [row], at_ms=newest_ms)[row["id"]]
        again = read_speeds(connection, [row], at_ms=newest_ms + 60_000)[row["id"]]
        still = job_row(connection, made.jobs["done"])
        assert read_speeds(connection, [still], at_ms=newest_ms) == {}
    assert speed.rows_per_s is not None
    assert speed.seconds_per_batch is not None
    assert speed.rows_per_s == pytest.approx(640 / speed.seconds_per_batch)
    assert speed.left_s == pytest.approx(137 * speed.seconds_per_batch)
    assert again.rows_per_s is not None
    assert again.rows_per_s < speed.rows_per_s, "a job that stands still becomes slower, not the same"


def test_the_speed_of_a_job_that_is_indexed_comes_from_its_counters(engine: Engine, made: Made) -> None:
    with read(engine) as connection:
        row = dict(job_row(connection, made.jobs["indexing"])) | {"counters": '{"rows_read": 5000}'}
        speed = read_speeds(connection, [row], at_ms=now_ms(connection))[row["id"]]  # type: ignore[list-item]
    assert speed.rows_per_s == pytest.approx(5000 / 134, rel=0.5)
    assert speed.left_s is None


def test_a_queue_that_nobody_looks_at_is_told(own_engine: Engine, own: Made, tmp_path: Path) -> None:
    job_id = own.jobs["queued"]
    client = sign_in(TestClient(make_app(own_engine, tmp_path)), now_s=time.time())
    assert "No supervisor" not in client.get("/").text
    assert "Waits for a supervisor to have a place free." in client.get(f"/jobs/{job_id}").text
    with write(own_engine) as connection:
        connection.execute(update(supervisors).values(seen_ms=now_ms(connection) - 90_000))
    for path in ("/", "/live/home", f"/jobs/{job_id}", "/health"):
        html = client.get(path).text
        assert re.search(r"No supervisor looks at the queue: the last one was seen 9\d s ago. 1 job waits", html), path
    with write(own_engine) as connection:
        connection.execute(delete(supervisors))
    assert "none has been seen. 1 job waits." in client.get("/").text
    with write(own_engine) as connection:
        beat(connection, ago_s=-3600)
    assert "No supervisor" not in client.get("/").text


def test_new_batches_move_the_row_of_a_job(own_engine: Engine, own: Made, tmp_path: Path) -> None:
    job_id = own.jobs["running"]
    client = sign_in(TestClient(make_app(own_engine, tmp_path)), now_s=time.time())
    with write(own_engine) as connection:
        publish(connection, job_id, 7, pushes=True, first=263)
        set_job(connection, job_id, next_seq=270)
    row = client.get("/live/home").text.partition(f'id="row-{job_id}"')[2].partition("</tr>")[0]
    assert '270 <span class="of">of 400' in row
    assert ">0.800<" in row
