"""A large catalog: 1,000 jobs, one of them with 100,000 segments. Hot queries use an index and read a bounded part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, insert, select, text

from superbatch_server.service.catalog import checkpoints, claims, consumers, events, jobs, lease, manifest, segments
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.pages import PageQuery
from superbatch_server.service.catalog.queue import submit_job
from superbatch_server.service.catalog.stats import job_stats
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.supervisors import list_supervisors
from superbatch_server.service.catalog.tables import events as events_table
from superbatch_server.service.catalog.tables import jobs as jobs_table
from superbatch_server.service.catalog.tables import log_digests, schedule_rows
from superbatch_server.service.catalog.tables import segments as segments_table
from superbatch_server.service.catalog.totals import Totals
from superbatch_server.service.upkeep.withdrawal import search_pending
from superbatch_server.storage.store import ArtifactStore
from tests.service.catalog.builders import new_catalog, schedule_row, segment_commit, sha, spec

NUM_JOBS = 1_000
NUM_SEGMENTS = 100_000
LONG = "job_0000000000000000"
AT_ONCE = 5_000


def rows_of_segments(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Make the rows of a long log; the bodies are one text with the number replaced."""
    template = stored(segment_commit(job, 777_777_777)).replace("777777778", "%(stop)d").replace("777777777", "%(seq)d")
    for seq in range(NUM_SEGMENTS):
        name = f"{seq:012d}.parquet"
        yield {
            "job_id": job["id"],
            "first_seq": seq,
            "num_batches": 1,
            "token": 1,
            "list_name": name,
            "list_key": name,
            "bytes": 1000,
            "sha256": "ab" * 32,
            "generation": 0,
            "commit": template % {"seq": seq, "stop": seq + 1},
            "log_digest_start": f"{seq:064x}",
            "log_digest_end": f"{seq + 1:064x}",
            "committed_ms": seq,
        }


def fill(engine: Engine) -> None:
    """Put jobs, segments, schedule rows, log digests and events into a catalog."""
    with write(engine) as connection:
        long = dict(submit_job(connection, spec(num_batches=2 * NUM_SEGMENTS), job_id=LONG))
        others = [
            long | {"id": f"job_{number:016x}", "created_ms": number, "state": "SUCCEEDED", "end_logged": True}
            for number in range(1, NUM_JOBS)
        ]
        connection.execute(insert(jobs_table), others)
        body = stored(schedule_row(0))
        made: list[tuple[Any, Callable[[int], dict[str, Any]]]] = [
            (log_digests, lambda seq: {"job_id": LONG, "count": seq + 1, "log_digest": f"{seq + 1:064x}"}),
            (schedule_rows, lambda seq: {"job_id": LONG, "seq": seq, "row_attempt": 0, "body": body}),
            (events_table, lambda seq: {"job_id": LONG, "at_ms": seq, "kind": "k", "message": "m", "fields": "{}"}),
        ]
        rows = list(rows_of_segments(long))
        for start in range(0, NUM_SEGMENTS, AT_ONCE):
            connection.execute(insert(segments_table), rows[start : start + AT_ONCE])
            for table, row in made:
                connection.execute(insert(table), [row(seq) for seq in range(start, start + AT_ONCE)])
        totals = stored(Totals(next_seq=NUM_SEGMENTS))
        done = {"next_seq": NUM_SEGMENTS, "totals": totals, "log_digest": f"{NUM_SEGMENTS:064x}"}
        connection.execute(jobs_table.update().where(jobs_table.c.id == LONG).values(**done))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = new_catalog(tmp_path_factory.mktemp("large"))
    fill(engine)
    yield engine
    engine.dispose()


class Watch:
    """Collects the statements of a piece of work, and how many rows the driver was asked for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.statements: list[tuple[str, Any]] = []

    def __enter__(self) -> Watch:
        event.listen(self.engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(self.engine, "before_cursor_execute", self._note)

    def _note(self, _c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        self.statements.append((statement, parameters))

    def plans(self) -> list[tuple[str, str]]:
        """Return each statement that looks into tables with SQLite's plan for it."""
        found = []
        with read(self.engine) as connection:
            for statement, parameters in self.statements:
                if " FROM " in statement.replace("\n", " ") or statement.startswith(("UPDATE", "DELETE")):
                    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                    found.append((statement, "\n".join(str(row[3]) for row in plan)))
        return found


def scans(plan: str) -> list[str]:
    """Return the steps of a plan that read a whole table or a whole index without a limit of their own."""
    small = ("supervisors", "CONSTANT ROW")
    return [step for step in plan.splitlines() if step.startswith("SCAN") and not any(name in step for name in small)]


WORK: dict[str, Callable[[Connection], object]] = {
    "a job": lambda connection: jobs.get_job(connection, LONG),
    "the queue": claims._claimable_ids,
    "abandoned jobs": lambda connection: connection.execute(claims._abandoned(connection)).all(),
    "ends to write": segments.unlogged_ends,
    "whose secret": lambda connection: lease.is_known_secret(connection, "secret"),
    "log files": lambda connection: segments.newest_log_files(connection, LONG),
    "log version": lambda connection: manifest.log_version(connection, LONG),
    "manifest at its start": lambda connection: manifest.manifest_page(connection, LONG, history=None, after=0),
    "manifest at its end": lambda connection: manifest.manifest_page(
        connection, LONG, history=None, after=NUM_SEGMENTS - 1
    ),
    "a list": lambda connection: manifest.find_list(connection, LONG, "000000050000.parquet"),
    "events": lambda connection: events.list_events(connection, LONG, after=50_000, limit=100),
    "stats": lambda connection: job_stats(connection, LONG),
    "newest generation": lambda connection: checkpoints.newest_generation(connection, LONG),
    "refresh": lambda connection: checkpoints.refresh_state(connection, LONG),
    "checkpoints": lambda connection: checkpoints.list_checkpoints(connection, LONG),
    "consumers": lambda connection: consumers.list_consumers(connection, LONG),
    "a log digest": lambda connection: consumers.log_digest_at(connection, LONG, 5),
    "whose digest": lambda connection: connection.execute(
        select(log_digests.c.job_id).where(log_digests.c.log_digest == sha("nobody's")).limit(1)
    ).all(),
    "supervisors": list_supervisors,
}


@pytest.mark.parametrize("name", WORK)
def test_a_hot_query_uses_an_index(large: Engine, name: str) -> None:
    with Watch(large) as watch, read(large) as connection:
        WORK[name](connection)
    plans = watch.plans()
    assert plans
    for statement, plan in plans:
        assert not scans(plan), f"{plan}\n{statement}"


def test_a_page_of_jobs_is_read_from_its_index_without_sorting(large: Engine) -> None:
    with read(large) as connection:
        _, token = jobs.list_jobs(connection, PageQuery(50))
    with Watch(large) as watch, read(large) as connection:
        page, _ = jobs.list_jobs(connection, PageQuery(50, token))
    assert len(page) == 50
    for statement, plan in watch.plans():
        assert "jobs_by_created" in plan, statement
        assert "TEMP B-TREE" not in plan, plan


def test_the_search_for_withdrawn_batches_asks_an_index(large: Engine, tmp_path: Path) -> None:
    with Watch(large) as watch:
        assert not search_pending(large, ArtifactStore.__new__(ArtifactStore))
    for statement, plan in watch.plans():
        assert not scans(plan), f"{plan}\n{statement}"


def steps_of(connection: Connection, work: Callable[[], object]) -> int:
    """Return how many steps SQLite's machine took for a piece of work, in hundreds, times a hundred."""
    driver = connection.connection.driver_connection
    assert driver is not None
    hundreds: list[None] = []
    driver.set_progress_handler(lambda: hundreds.append(None), 100)
    try:
        work()
    finally:
        driver.set_progress_handler(None, 0)
    return 100 * len(hundreds)


@pytest.mark.parametrize(
    ("name", "most"),
    [("stats", 50_000), ("manifest at its start", 30_000), ("manifest at its end", 3_000), ("refresh", 3_000)],
)
def test_the_work_does_not_grow_with_the_log(large: Engine, name: str, most: int) -> None:
    with read(large) as connection:
        steps = steps_of(connection, lambda: WORK[name](connection))
        assert steps < most
        # The measure sees a look at everything.
        count = text("SELECT count(*) FROM segments WHERE job_id = :job AND num_batches = 1")
        assert steps_of(connection, lambda: connection.execute(count, {"job": LONG}).scalar_one()) > NUM_SEGMENTS
