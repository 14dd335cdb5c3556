"""The lease thread: it beats, and it ends the attempt when it must."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from superbatch.formats.errors import ServiceUnreachable
from superbatch_server.schemas.attempts import Heartbeat, HeartbeatAnswer
from superbatch_server.schemas.errors import LeaseLost
from superbatch_server.schemas.jobs import Phase
from superbatch_server.workers.lease import LeaseThread


class Service:
    """Answers heartbeats from a list; the last answer repeats."""

    def __init__(self, *answers: HeartbeatAnswer | Exception) -> None:
        self.answers, self.beats = list(answers), 0

    def heartbeat(self, beat: Heartbeat, *, timeout_s: float) -> HeartbeatAnswer:
        answer = self.answers[min(self.beats, len(self.answers) - 1)]
        self.beats += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


FINE = HeartbeatAnswer(lease_s=1, cancel=False)


@contextmanager
def beating(service: Service, *, parents: Iterator[int] | None = None, lease_s: float = 30) -> Iterator[list[str]]:
    told: list[str] = []
    thread = LeaseThread(
        service,
        beat=lambda: Heartbeat(phase=Phase.COMPOSING),
        heartbeat_s=0.01,
        lease_s=lease_s,
        on_cancel=lambda: told.append("cancel"),
        on_lost=told.append,
        parent_pid=(lambda: next(parents)) if parents else (lambda: 1),
    )
    thread.start()
    yield told
    thread.stop()
    thread.join(5)
    assert not thread.is_alive()


def wait_for(told: list[str], num: int = 1) -> None:
    deadline = time.monotonic() + 5
    while len(told) < num and time.monotonic() < deadline:
        time.sleep(0.005)


def test_a_cancel_is_told_once_and_the_lease_is_still_renewed() -> None:
    service = Service(FINE, HeartbeatAnswer(lease_s=1, cancel=True))
    with beating(service) as told:
        wait_for(told)
        beats = service.beats
        time.sleep(0.1)
        assert service.beats > beats
    assert told == ["cancel"]


@pytest.mark.parametrize(
    ("service", "lease_s", "reason"),
    [
        (Service(FINE, LeaseLost("attempt 8 is the newest")), 30, "attempt 8"),
        (Service(FINE, ServiceUnreachable("refused")), 0.1, "not renewed"),
    ],
)
def test_a_lost_lease_is_told(service: Service, lease_s: float, reason: str) -> None:
    with beating(service, lease_s=lease_s) as told:
        wait_for(told)
    assert len(told) == 1
    assert reason in told[0]


def test_a_service_that_comes_back_in_time_is_forgiven() -> None:
    service = Service(FINE, ServiceUnreachable("refused"), FINE)
    with beating(service) as told:
        deadline = time.monotonic() + 5
        while service.beats < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
    assert service.beats >= 4
    assert told == []


def test_the_end_of_the_supervisor_is_told() -> None:
    with beating(Service(FINE), parents=iter([7, 7, 7, 1])) as told:
        wait_for(told)
    assert told == ["the supervisor is gone"]


ATTEMPT = """
import subprocess, sys, time
import psutil
from superbatch_server.workers.lease import kill_descendants

sleeper = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).wait()"
child = subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True)
deadline = time.monotonic() + 10
while not (below := psutil.Process(child.pid).children()) and time.monotonic() < deadline:
    time.sleep(0.01)
kill_descendants()
child.wait(5)
left = [each for each in below if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
print(len(below), len(left))
"""


def test_no_process_below_this_one_is_left() -> None:
    """In a process of its own: below this one are the servers of other tests."""
    ran = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["1", "0"]
