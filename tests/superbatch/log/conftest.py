"""A job of 24 batches in memory, and logs that read it without sleeping."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from superbatch.log import BatchLog
from tests.superbatch.log.fake_service import JOB, TOKEN, FakeService

OpenLog = Callable[..., BatchLog]


class Pauses:
    """Stands in for time: a pause only moves the clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.taken: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.now_s += seconds

    def clock(self) -> float:
        return self.now_s


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def open_log(service: FakeService, pauses: Pauses) -> Iterator[OpenLog]:
    with httpx.Client(transport=httpx.MockTransport(service.answer)) as client, ExitStack() as logs:

        def opened(job: str = JOB, **options: object) -> BatchLog:
            plain = {
                "token": TOKEN,
                "client": client,
                "rng": random.Random(1),
                "sleep": pauses.sleep,
                "clock": pauses.clock,
            }
            return logs.enter_context(BatchLog("http://127.0.0.1:8000", job, **{**plain, **options}))

        yield opened
