"""What the conformance kit's own service refuses, the real one refuses too, with the same status and code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from superbatch.conformance.sample_job import JOB, make_job
from superbatch.conformance.service import Request, SampleService
from tests.service.api.world import World

Answer = tuple[int, str | None]
Ask = Callable[[str, str, Any], tuple[int, bytes]]


@dataclass
class Side:
    """One of the two services with a job: how to ask it, its b, its published batches, its log digest after n."""

    ask: Ask
    b: int
    num_batches: int
    digest_at: Callable[[int], str]

    def get(self, target: str) -> Answer:
        return _answer(*self.ask("GET", target, None))

    def report(self, trained_seq: int = 0, *, name: str = "trainer", **fields: Any) -> Answer:
        """Send a report; a field given as a function is made from this side."""
        body = {
            "role": "learner",
            "world_size": 2,
            "accumulation": 1,
            "read_ahead": 2,
            "checkpoint_every": 4,
            "delivered_seq": trained_seq,
            "trained_seq": trained_seq,
            "durable_seq": 0,
            "log_digest": self.digest_at(trained_seq),
            "ttl_s": 60,
        }
        given = {name: value(self) if callable(value) else value for name, value in fields.items()}
        return _answer(*self.ask("PUT", f"consumers/{name}", body | given))


def _answer(status: int, content: bytes) -> Answer:
    return status, json.loads(content).get("code") if status >= 400 else None


@pytest.fixture
def sides(world: World, tmp_path: Path) -> tuple[Side, Side]:
    """The real service, and the kit's."""
    job = world.submit(world.pushed_spec())
    world.publish(job, 3)
    sample = make_job(tmp_path / "sample", num_batches=6, b=4)
    kit = SampleService(sample, token="t")

    def ask_real(method: str, target: str, body: Any) -> tuple[int, bytes]:
        found = world.client.request(method, f"/v1/jobs/{job}/{target}", json=body)
        return found.status_code, found.content

    def ask_kit(method: str, target: str, body: Any) -> tuple[int, bytes]:
        headers = {"authorization": "Bearer t"}
        found = kit.answer(Request(method, f"/v1/jobs/{JOB}/{target}", headers, json.dumps(body).encode()))
        return found.status, found.body

    real = Side(ask_real, 4, 3, lambda count: world.log_digest(job, count))
    return real, Side(ask_kit, 4, 6, lambda count: sample.log_digests[count].hex())


def same(sides: tuple[Side, Side], act: Callable[[Side], Answer], expected: Answer) -> None:
    """Both sides answer an act alike, and as expected."""
    assert [act(side) for side in sides] == [expected, expected]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (200, None)),
        ({"world_size": lambda side: side.b + 1}, (422, "world_size_does_not_divide")),
        ({"accumulation": lambda side: side.b}, (422, "world_size_does_not_divide")),
        ({"durable_seq": 1}, (422, "validation")),
        ({"world_size": 0}, (422, "validation")),
        ({"world_size": "two"}, (422, "validation")),
        ({"log_digest": "00" * 32}, (409, "other_history")),
        ({"delivered_seq": lambda side: side.num_batches + 1}, (422, "seq_beyond_log")),
        ({"skipped": [{"seq": 1, "reason": "a bad row"}]}, (200, None)),
    ],
)
def test_a_first_report_is_answered_alike(sides: tuple[Side, Side], fields: dict[str, Any], expected: Answer) -> None:
    same(sides, lambda side: side.report(**fields), expected)


def test_going_back_and_a_second_learner_are_answered_alike(sides: tuple[Side, Side]) -> None:
    same(sides, lambda side: side.report(2), (200, None))
    same(sides, lambda side: side.report(1), (409, "went_back"))
    same(sides, lambda side: side.report(2, name="other"), (409, "second_learner"))
    same(sides, lambda side: side.report(1, name="other", role="reader"), (200, None))
    same(sides, lambda side: side.report(1, rewind=True), (200, None))
    same(sides, lambda side: side.report(1), (200, None))


def test_a_cursor_is_answered_alike(sides: tuple[Side, Side]) -> None:
    same(sides, lambda side: side.get("manifest?after=0"), (200, None))
    same(sides, lambda side: side.get("manifest?after=0&history=h9"), (409, "other_history"))
    same(sides, lambda side: side.get(f"manifest?after={side.num_batches + 1}"), (422, "seq_beyond_log"))
    same(sides, lambda side: side.get("lists/none.parquet"), (404, "not_found"))


def test_a_skipped_batch_is_listed_alike(sides: tuple[Side, Side]) -> None:
    for side in sides:
        side.report(2, skipped=[{"seq": 1, "reason": "a bad row"}])
        _, content = side.ask("GET", "manifest?after=0", None)
        (revoked,) = json.loads(content)["revoked"]
        assert (revoked["first_seq"], revoked["num_batches"]) == (1, 1)
        assert "a bad row" in revoked["reason"]
