"""Limits: far above what trainers and viewers need, and then 429 with Retry-After."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from superbatch_server.schemas.errors import TooManyRequests
from superbatch_server.service.access.limits import MAX_REMEMBERED, Bounds, Limits
from superbatch_server.service.settings import Settings
from tests.service.api.world import World, answered, problem

DEFAULTS = Settings.model_fields


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def limits(clock: Clock, *, rate: float = 10, requests: int = 100, waiting: int = 2, streams: int = 1) -> Limits:
    return Limits(Bounds(rate, requests, waiting, streams), clock=clock)


def test_a_bucket_empties_and_fills_again() -> None:
    clock = Clock()
    tried = limits(clock)
    for _ in range(20):
        with tried.request("a"):
            pass
    with pytest.raises(TooManyRequests, match="10 requests a second"), tried.request("a"):
        pass
    with tried.request("b"):
        pass
    clock.now_s += 0.1
    with tried.request("a"):
        pass
    with pytest.raises(TooManyRequests), tried.request("a"):
        pass


def test_what_is_under_way_is_counted_by_credential_and_waits_by_all() -> None:
    tried = limits(Clock(), rate=1000, requests=3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(tried.request("a"))
        with pytest.raises(TooManyRequests, match="max_requests"):
            stack.enter_context(tried.request("a"))
        stack.enter_context(tried.request("b"))
        for name in ("a", "b"):
            stack.enter_context(tried.waiter(name))
        with pytest.raises(TooManyRequests, match="max_waiting"):
            stack.enter_context(tried.waiter("c"))
        stack.enter_context(tried.stream("a"))
        with pytest.raises(TooManyRequests, match="max_streams"):
            stack.enter_context(tried.stream("b"))
    assert (tried.waiting, tried.streams) == (0, 0)
    with tried.request("a"), tried.waiter("a"), tried.stream("a"):
        pass


def test_one_credential_has_a_quarter_of_what_may_wait() -> None:
    tried = limits(Clock(), waiting=8, streams=8)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(tried.waiter("a"))
            stack.enter_context(tried.stream("a"))
        with pytest.raises(TooManyRequests, match="2 requests of a may wait"):
            stack.enter_context(tried.waiter("a"))
        with pytest.raises(TooManyRequests, match="2 streams of a may be open"):
            stack.enter_context(tried.stream("a"))
        stack.enter_context(tried.waiter("b"))
        stack.enter_context(tried.stream("b"))
    with tried.stream("a"):
        assert (tried.waiting, tried.streams) == (0, 1)


def test_who_has_no_token_takes_no_place(tmp_path: Path) -> None:
    (tmp_path / "stranger").mkdir()
    world = World(tmp_path / "stranger", max_waiting=1, max_streams=1)
    limits = world.app.state.deployment.limits
    with limits.waiter("another"), limits.stream("another"):  # a place that is taken would be refused with 429
        stranger = world.client_with(Authorization="Bearer sbt_guess")
        problem(stranger.get("/v1/jobs/x/manifest?wait=1"), "unauthorized")
        problem(stranger.get("/v1/jobs/x/events", headers={"Accept": "text/event-stream"}), "unauthorized")
    world.close()


def test_strangers_do_not_fill_the_memory() -> None:
    tried = limits(Clock())
    with tried.request("stays"):
        for number in range(2 * MAX_REMEMBERED + 10):
            with tried.request(f"address {number}"):
                pass
        assert len(tried._askers) <= MAX_REMEMBERED
        assert "stays" in tried._askers


def test_a_hundred_pollers_and_twenty_viewers_of_one_token_never_meet_a_limit() -> None:
    clock = Clock()
    bounds = Bounds(*(float(DEFAULTS["requests_per_s"].default),), **{
        name: DEFAULTS[name].default for name in ("max_requests", "max_waiting", "max_streams")
    })  # fmt: skip
    tried = Limits(bounds, clock=clock)
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(tried.request("one token"))
            stack.enter_context(tried.waiter("one token"))
        for _ in range(20):
            stack.enter_context(tried.request("one token"))
            stack.enter_context(tried.stream("one token"))
        for _ in range(50):  # five batches a second: each poller asks for the manifest and a list, viewers for a page
            clock.now_s += 0.2
            for _ in range(2 * 100 + 20):
                with tried.request("one token"):
                    pass


def test_the_answer_says_when_to_come_again(tmp_path: Path) -> None:
    (tmp_path / "limited").mkdir()
    world = World(tmp_path / "limited", requests_per_s=1)
    answers = [world.client.get("/v1/roots") for _ in range(4)]
    assert [answer.status_code for answer in answers[:2]] == [200, 200]
    body = problem(answers[-1], "too_many_requests", "1 requests a second", "deployment")
    assert answers[-1].headers["retry-after"] == "1"
    assert body["status"] == 429
    answered(world.client.get("/healthz"), 200)
    reader = world.client_with()
    problem(reader.get("/v1/roots"), "unauthorized")
    world.close()


def test_a_full_house_of_long_polls(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    world = World(tmp_path / "full", max_waiting=1, max_streams=1)
    job_id = world.submit()
    limits = world.app.state.deployment.limits
    with limits.waiter("another"), limits.stream("another"):
        problem(world.client.get(f"/v1/jobs/{job_id}/manifest?wait=1"), "too_many_requests", "max_waiting")
        stream = world.client.get(f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
        problem(stream, "too_many_requests", "max_streams")
        answered(world.client.get(f"/v1/jobs/{job_id}/manifest"), 200)
    answered(world.client.get(f"/v1/jobs/{job_id}/manifest?wait=0.01"), 200)
    world.close()
