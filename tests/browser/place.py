"""A real service on a real port over a seeded catalog and store; it can be stopped and started again."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import Connection, Engine, Row, insert, select, update

from superbatch.formats.score_shard import NOT_CHOSEN, read_score_shard
from superbatch_server.service.access.login_codes import new_login_code
from superbatch_server.service.app import create_app
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import create_engine, read, write
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.migrations import migrate
from superbatch_server.service.catalog.queue import submit_job, update_job
from superbatch_server.service.catalog.tables import attempts, checkpoints, jobs, supervisors
from superbatch_server.service.settings import Settings
from superbatch_server.storage.store import ArtifactStore, open_store
from tests.browser.pool import MARKUP, SAMPLE, Indexed, add_pool, hostile_tar, sample_shards
from tests.browser.scored import EVERY_MS, LATE, REFRESH, Composer, add_job
from tests.service.dashboard import seed
from tests.service.running import wait_until

TOKEN = "token-of-the-browser-tests"
MANY_JOBS = 60
SCORED, GROWING, HOSTILE = (f"job_00000000a000000{number}" for number in range(1, 4))
LOG_LINE = "batch {seq}: 640 candidates, 128 chosen in 16 rounds, 0.31 s"
HOSTILE_LOG = f"{MARKUP} \x1b[31mred\x1b[0m \u202eeverted\u202c \x00\x07"


@dataclass
class Place:
    """The service's folder, catalog and jobs. `jobs`: ids of the made-up jobs by what they show."""

    folder: Path
    engine: Engine
    settings: Settings
    store: ArtifactStore
    jobs: dict[str, str] = field(default_factory=dict)
    pools: dict[str, Indexed] = field(default_factory=dict)
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return self.settings.service_url

    def login_url(self) -> str:
        """Return an address that signs in once."""
        return f"{self.url}/login?code={new_login_code(self.settings.data_dir)}"

    def start(self) -> None:
        """Serve on the port of the settings."""
        app = create_app(engine=self.engine, settings=self.settings, store=self.store, token=TOKEN)
        listener = socket.create_server((self.settings.host, self.settings.port))
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        wait_until(lambda: self._server is not None and self._server.started, "the API answers")

    def stop(self) -> None:
        """End the service; what is in the catalog stays."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self._server = self._thread = None

    def publish(self, job_id: str, num_batches: int) -> int:
        """Let an attempt publish the next batches of a made-up job; return the number that is published then."""
        with write(self.engine) as connection:
            first = connection.execute(select(jobs.c.next_seq).where(jobs.c.id == job_id)).scalar_one()
            seed.publish(connection, job_id, num_batches, pushes=True, first=first)
            update_job(connection, job_id, next_seq=first + num_batches)
        return int(first + num_batches)

    def submit(self, name: str, **values: Any) -> str:
        """Submit a job of its own for a test that changes it; `values` are columns of its row."""
        with write(self.engine) as connection:
            job_id = str(submit_job(connection, seed.spec(name=name, method="uniform"))["id"])
            if values:
                update_job(connection, job_id, **values)
        return job_id

    def job(self, job_id: str) -> Row[Any]:
        """Return a job's row."""
        with read(self.engine) as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()

    def log(self, job_id: str, text: str) -> None:
        """Append to the log of a job's attempt."""
        path = self.settings.logs_dir / f"{job_id}-1.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)
        with write(self.engine) as connection:
            where = (attempts.c.job_id == job_id) & (attempts.c.token == 1)
            connection.execute(update(attempts).where(where).values(log_path=str(path)))

    def end(self, job_id: str, state: str) -> None:
        """Let a job be over."""
        with write(self.engine) as connection:
            update_job(connection, job_id, state=state)

    def chosen_row(self, seq: int) -> int:
        """Return the dataset_index of a row in a batch of the scored job."""
        return self._row_of_round(seq, 3)

    def passed_over_row(self, seq: int) -> int:
        """Return the dataset_index of a candidate that is not in a batch of the scored job."""
        return self._row_of_round(seq, NOT_CHOSEN)

    def _row_of_round(self, seq: int, number: int) -> int:
        shard = read_score_shard(self.store.get(f"jobs/{SCORED}/scores/{seq}.parquet")).rows
        place = shard.column("round").to_pylist().index(number)
        return int(shard.column("dataset_index")[place].as_py())

    def supervisors_are_seen(self, *, ago_s: float) -> None:
        """Let the newest heartbeat of every supervisor be so old."""
        with write(self.engine) as connection:
            connection.execute(update(supervisors).values(seen_ms=now_ms(connection) - round(1000 * ago_s)))


@contextlib.contextmanager
def a_place(folder: Path, *, scored_batches: int = 90) -> Iterator[Place]:
    """Yield a service that answers; one of its jobs has `scored_batches` batches with score shards."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    data = folder / "data"
    data.mkdir(parents=True)
    settings = Settings(data_dir=folder, port=port, roots={"sample": str(SAMPLE), "own": str(data)})
    engine = create_engine(f"sqlite:///{folder}/catalog.sqlite")
    place = Place(folder, engine, settings, open_store(settings.store_url))
    migrate(engine)
    place.jobs = dict(seed.seed(engine).jobs)
    _many_jobs(place)
    _scored_jobs(place, data, num_batches=scored_batches)
    place.supervisors_are_seen(ago_s=-3600)
    place.start()
    try:
        yield place
    finally:
        place.stop()
        engine.dispose()


def _many_jobs(place: Place) -> None:
    """Old jobs, so that the list of jobs has a second page."""
    with write(place.engine) as connection:
        for number in range(MANY_JOBS):
            job_id = f"job_0ld0000000000{number:03d}"
            submit_job(connection, seed.spec(name=f"an old job, {number}", method="uniform"), job_id=job_id)
            old = {"state": "CANCELLED", "created_ms": now_ms(connection) - 86_400_000 - 60_000 * number}
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**old))


def _scored_jobs(place: Place, data: Path, *, num_batches: int) -> None:
    place.jobs |= {"scored": SCORED, "growing": GROWING, "hostile scored": HOSTILE}
    with write(place.engine) as connection:
        sample = add_pool(
            connection, place.store, name="sample-pool", root="sample", folder=SAMPLE, shards=sample_shards()
        )
        hostile = add_pool(
            connection, place.store, name=MARKUP[:100], root="own", folder=data, shards=hostile_tar(data)
        )
        place.pools = {"sample": sample, "hostile": hostile}
        for pool, job_id, name, published, selection in (
            (sample, SCORED, "icons, joint", num_batches, {}),
            (sample, GROWING, "icons, growing", 2, {}),
            (hostile, HOSTILE, MARKUP[:120], 50, {"b": 4, "N": 2}),
        ):
            composer = add_job(connection, place.store, pool, job_id=job_id, name=name, num_batches=400, **selection)
            composer.publish(published)
            _attempt(composer)
            seed._trainer(connection, job_id, published)
            _date_checkpoints(connection, job_id, published)
    place.log(SCORED, "".join(f"{LOG_LINE.format(seq=seq)}\n" for seq in range(num_batches)))
    place.log(HOSTILE, f"{HOSTILE_LOG}\n{'x' * 200_000}\n{HOSTILE_LOG}\n")


def _date_checkpoints(connection: Connection, job_id: str, published: int) -> None:
    """Let each checkpoint have come shortly before the first batch that it scored."""
    at_ms = now_ms(connection)
    for ordinal in range(published // REFRESH + 2):
        batches_ago = max(0, published - REFRESH * ordinal - LATE)
        of_job = (checkpoints.c.job_id == job_id) & (checkpoints.c.ordinal == ordinal)
        connection.execute(update(checkpoints).where(of_job).values(created_ms=at_ms - EVERY_MS * batches_ago - 900))


def _attempt(composer: Composer) -> None:
    connection = composer.connection
    connection.execute(
        insert(attempts).values(
            job_id=composer.job_id,
            token=1,
            supervisor_id="supervisor_00000000000000c1",
            host="bench-2",
            pid=4711,
            started_ms=now_ms(connection) - 240_000,
        )
    )
    add_event(connection, composer.job_id, "attempt_began", "attempt 1 begins at seq 0")
    add_event(connection, composer.job_id, "checkpoint_active", MARKUP)
