"""A small job behind a real socket, and what opens and reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from superbatch.conformance.http_server import RunningService
from superbatch.conformance.sample_job import JOB, SampleJob, make_job
from superbatch.conformance.service import SampleService
from superbatch.log import BatchLog, LogState
from superbatch.reading import ExampleReader
from superbatch.webdataset.export import ReadRows, export_tars
from superbatch.webdataset.layout import TarLayout
from superbatch.webdataset.tar_folder import Origin, TarFolder

TOKEN = "secret"
OpenLog = Callable[..., BatchLog]
Export = Callable[..., Path]


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> SampleJob:
    return make_job(tmp_path_factory.mktemp("sample-job"), num_batches=24, b=12)


@pytest.fixture
def service(job: SampleJob) -> SampleService:
    return SampleService(job, token=TOKEN)


@pytest.fixture
def running(service: SampleService) -> Iterator[RunningService]:
    with RunningService(service) as running:
        yield running


@pytest.fixture
def open_log(running: RunningService) -> Iterator[OpenLog]:
    opened: list[BatchLog] = []

    def opens(state: LogState | None = None, **options: object) -> BatchLog:
        opened.append(BatchLog(running.url, JOB, token=TOKEN, state=state, **options))
        return opened[-1]

    yield opens
    for log in opened:
        log.close()


@pytest.fixture
def read_rows(job: SampleJob) -> ReadRows:
    reader = ExampleReader({"pool": job.folder}, num_attempts=1)
    return lambda rows: reader.read_rows(rows, job.shard_table)


@pytest.fixture
def export(open_log: OpenLog, read_rows: ReadRows, job: SampleJob) -> Export:
    """Exports the sample job into a folder and returns it."""

    def exports(folder: Path, *, world_size: int, accumulation: int = 1, with_metadata: bool = False) -> Path:
        layout = TarLayout(job.b, world_size, accumulation)
        tars = TarFolder(folder, layout=layout, origin=Origin(JOB, job.history_id, with_metadata))
        for _ in export_tars(open_log(), read_rows, tars):
            pass
        return folder

    return exports
