"""A sample job of 24 batches of 24 rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from superbatch.conformance.http_server import RunningService
from superbatch.conformance.sample_job import SampleJob, make_job
from superbatch.conformance.service import SampleService
from superbatch.torch.opening import OpenLog
from tests.superbatch.torch.world import NUM_BATCHES, TOKEN, B, in_memory


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> SampleJob:
    return make_job(tmp_path_factory.mktemp("sample"), num_batches=NUM_BATCHES, b=B)


@pytest.fixture
def service(job: SampleJob) -> SampleService:
    return SampleService(job, token=TOKEN)


@pytest.fixture
def open_log(service: SampleService) -> OpenLog:
    return in_memory(service)


@pytest.fixture
def url(service: SampleService) -> Iterator[str]:
    """The same service on a port, for worker processes."""
    with RunningService(service) as running:
        yield running.url
