"""Trainers register and report: each check of trainer-contract.md with its numbers; a refused report is not kept."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.tables import consumers
from tests.service.api.world import Json, World, answered, problem, sha256


@pytest.fixture
def job(world: World) -> str:
    """A job with a pushed learner, b = 4, max_staleness = 10, three batches published."""
    job = world.submit(world.pushed_spec())
    world.publish(job, 3)
    return job


def refused(world: World, job: str, report: Json, code: str, *said: str, name: str = "trainer") -> None:
    """Check that a report is refused and that nothing of it is kept."""
    before = world.get(f"/v1/jobs/{job}/consumers")
    problem(world.put_consumer(job, report, name), code, *said)
    assert world.get(f"/v1/jobs/{job}/consumers") == before


def expire(world: World) -> None:
    with write(world.engine) as connection:
        connection.execute(update(consumers).values(expires_ms=now_ms(connection) - 1))


def event_kinds(world: World, job: str) -> list[str]:
    return [event["kind"] for event in world.get(f"/v1/jobs/{job}/events")["events"]]


def test_a_report_registers_and_renews(world: World, job: str) -> None:
    first = answered(world.put_consumer(job, world.report(job)), 200)
    assert (first["name"], first["is_live"], first["report"]["trained_seq"]) == ("trainer", True, 0)
    for _ in range(2):  # the same report may be sent any number of times
        second = answered(world.put_consumer(job, world.report(job, 2, durable_seq=1)), 200)
        assert second["report"]["trained_seq"] == 2
    assert world.get(f"/v1/jobs/{job}/consumers/trainer")["report"] == second["report"]
    assert event_kinds(world, job).count("consumer_registered") == 1


def test_an_unregistered_trainer_is_not_found(world: World, job: str) -> None:
    problem(world.client.get(f"/v1/jobs/{job}/consumers/nobody"), "not_found", "'nobody'")
    problem(world.put_consumer("job_x", world.report(job)), "not_found", "'job_x'")


@pytest.mark.parametrize(("world_size", "accumulation"), [(3, 1), (2, 4), (8, 1)])
def test_b_must_be_divisible_among_ranks_and_micro_steps(
    world: World, job: str, world_size: int, accumulation: int
) -> None:
    report = world.report(job, world_size=world_size, accumulation=accumulation)
    said = (f"b = 4, {world_size} * {accumulation}", f"remainder {4 % (world_size * accumulation)}")
    refused(world, job, report, "world_size_does_not_divide", *said)
    refused(world, job, report | {"role": "reader"}, "world_size_does_not_divide", *said)


FULL = {"resolution": 224, "patch": 16, "flops_fraction": 1.0, "share": 0.75}
LOW = {"resolution": 224, "patch": 32, "flops_fraction": 0.28, "share": 0.25}


@pytest.mark.parametrize(
    ("world_size", "accumulation", "remainders"), [(1, 1, None), (2, 1, None), (4, 1, "[2, 2]"), (2, 4, "[6, 2]")]
)
def test_the_rows_of_each_variant_must_be_divisible_among_ranks_and_micro_steps(
    world: World, world_size: int, accumulation: int, remainders: str | None
) -> None:
    job = world.submit(world.pushed_spec(selection={"b": 8, "N": 2, "variants": [FULL, LOW]}))
    report = world.report(job, world_size=world_size, accumulation=accumulation)
    if remainders is None:
        answered(world.put_consumer(job, report), 200)
        return
    said = (f"got [6, 2] rows of b = 8, {world_size} * {accumulation}", f"remainders {remainders}")
    refused(world, job, report, "variants_do_not_divide", *said)
    refused(world, job, report | {"role": "reader"}, "variants_do_not_divide", *said)


@pytest.mark.parametrize(
    ("every", "read_ahead", "per_list", "needed"),
    [
        (4, 6, 1, 10),
        (4, 7, 1, 11),
        (10, 0, 1, 10),
        (11, 0, 1, 11),
        (4, 2, 5, 10),
        (4, 2, 6, 11),
        (1, 0, 10, 10),
        (1, 0, 11, 11),
    ],
)
def test_under_wait_a_trainer_that_could_not_be_served_is_refused(
    world: World, every: int, read_ahead: int, per_list: int, needed: int
) -> None:
    job = world.submit(world.pushed_spec(lists={"batches_per_list": per_list}))
    report = world.report(job, checkpoint_every=every, read_ahead=read_ahead)
    if needed <= 10:
        answered(world.put_consumer(job, report), 200)
    else:
        said = f"{every} + {read_ahead} + {per_list} - 1 = {needed} > 10"
        refused(world, job, report, "staleness_too_small", said)
        answered(world.put_consumer(job, report | {"role": "reader"}), 200)


@pytest.mark.parametrize("on_stale", ["use", "uniform"])
def test_where_nothing_waits_for_checkpoints_only_the_credit_must_reach(world: World, on_stale: str) -> None:
    job = world.submit(world.pushed_spec(refresh={"on_stale": on_stale}))
    answered(world.put_consumer(job, world.report(job, checkpoint_every=1000, read_ahead=9)), 200)
    report = world.report(job, checkpoint_every=1000, read_ahead=10)
    refused(world, job, report, "staleness_too_small", "1 + 10 + 1 - 1 = 11 > 10")


def test_a_job_whose_learner_is_not_pushed_checks_no_staleness(world: World) -> None:
    job = world.submit()
    answered(world.put_consumer(job, world.report(job, checkpoint_every=None, read_ahead=1000)), 200)


def test_a_pushing_learner_says_how_often(world: World, job: str) -> None:
    refused(world, job, world.report(job, checkpoint_every=None), "checkpoint_every_missing", "checkpoint_every = null")


def test_counts_beyond_the_log_are_refused(world: World, job: str) -> None:
    refused(world, job, world.report(job, delivered_seq=4), "seq_beyond_log", "delivered_seq = 4, next_seq = 3")


def test_counts_out_of_order_are_refused(world: World, job: str) -> None:
    refused(world, job, world.report(job, 2, durable_seq=3), "validation", "got 3, 2, 2")


@pytest.mark.parametrize("trained_seq", [0, 2])
def test_the_state_of_another_job_is_refused(world: World, job: str, trained_seq: int) -> None:
    other = world.submit(world.spec())
    assert world.attempt is not None
    refused(
        world,
        job,
        world.report(job, trained_seq, log_digest=world.log_digest(other, 0)),
        "wrong_job",
        other,
        f"after {trained_seq} batches",
    )


def test_a_state_that_nobody_knows_is_of_another_history(world: World, job: str) -> None:
    refused(world, job, world.report(job, 2, log_digest=sha256(b"x")), "other_history", sha256(b"x"))
    refused(world, job, world.report(job, 2, log_digest=world.log_digest(job, 1)), "other_history")


def test_a_second_learner_waits_until_the_first_has_expired(world: World, job: str) -> None:
    answered(world.put_consumer(job, world.report(job, 2)), 200)
    refused(world, job, world.report(job, 2), "second_learner", "'trainer'", "another", name="second")
    answered(world.put_consumer(job, world.report(job, role="reader"), "second"), 200)
    answered(world.put_consumer(job, world.report(job, 2, world_size=1)), 200)  # the same name takes over
    expire(world)
    assert not world.get(f"/v1/jobs/{job}/consumers/trainer")["is_live"]
    answered(world.put_consumer(job, world.report(job, 2), "second"), 200)
    assert [found["name"] for found in world.get(f"/v1/jobs/{job}/consumers")["consumers"]] == ["second"]
    assert "learner_replaced" in event_kinds(world, job)
    refused(world, job, world.report(job, 2), "second_learner", "'second'")


def test_who_takes_over_goes_on_from_the_same_line(world: World, job: str) -> None:
    answered(world.put_consumer(job, world.report(job, 2)), 200)
    expire(world)
    refused(world, job, world.report(job, 1), "went_back", "got 1 after 2", name="second")
    answered(world.put_consumer(job, world.report(job, 1, rewind=True), "second"), 200)


def test_progress_falls_only_with_rewind(world: World, job: str) -> None:
    answered(world.put_consumer(job, world.report(job, 3)), 200)
    refused(world, job, world.report(job, 1), "went_back", "got 1 after 3", "rewind: true")
    assert answered(world.put_consumer(job, world.report(job, 1, rewind=True)), 200)["report"]["trained_seq"] == 1
    assert "rewound" in event_kinds(world, job)


def test_a_rewind_orphans_the_checkpoints_beyond_it(world: World, job: str) -> None:
    answered(world.put_consumer(job, world.report(job, 3)), 200)
    pushed = {seq: world.push(job, seq)["id"] for seq in (1, 2, 3)}
    world.verdict(job, pushed[1])
    world.verdict(job, pushed[2])
    answered(world.put_consumer(job, world.report(job, 1, rewind=True)), 200)
    found = {
        c["trained_seq"]: (c["state"], c["generation"]) for c in world.get(f"/v1/jobs/{job}/checkpoints")["checkpoints"]
    }
    assert found == {1: ("ACTIVE", 3), 2: ("ORPHANED", 2), 3: ("ORPHANED", None)}


def test_a_reader_has_no_credit_and_orphans_nothing(world: World, job: str) -> None:
    pushed = world.push(job, 3)["id"]
    world.verdict(job, pushed)
    answered(world.put_consumer(job, world.report(job, 3, role="reader")), 200)
    answered(world.put_consumer(job, world.report(job, 0, role="reader", rewind=True)), 200)
    assert world.get(f"/v1/jobs/{job}/checkpoints")["checkpoints"][0]["state"] == "ACTIVE"
    assert world.get(f"/v1/jobs/{job}/stats")["consumer_trained_seq"] == 0


@pytest.mark.parametrize("name", ["a b", ".x", "x" * 121, "ü"])
def test_a_name_that_is_no_name_is_refused(world: World, job: str, name: str) -> None:
    problem(world.put_consumer(job, world.report(job), name), "validation", "path name")


@pytest.mark.parametrize(
    "change", [{"world_size": 0}, {"ttl_s": 0}, {"read_ahead": -1}, {"log_digest": "x"}, {"role": "boss"}, {"loss": 1}]
)
def test_a_report_outside_its_bounds_is_refused(world: World, job: str, change: dict[str, Any]) -> None:
    refused(world, job, world.report(job) | change, "validation", next(iter(change)))


def test_a_trainer_reports_to_a_job_that_has_ended(world: World, job: str) -> None:
    world.post(f"/v1/jobs/{job}:cancel", {}, status=200)
    answered(world.put_consumer(job, world.report(job, 3)), 200)
