"""Deleting what something refers to is refused with its name; twice is not found; races leave nothing dangling."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.queue import end_job
from superbatch_server.service.catalog.tables import datasets, jobs, models
from tests.service.api.world import World, problem


def end(world: World, job: str) -> None:
    with write(world.engine) as connection:
        end_job(connection, job, JobState.CANCELLED)


def test_who_refers_is_named_and_deleting_twice_is_not_found(world: World) -> None:
    dataset = world.dataset(rows=(100,))
    spec = world.pushed_spec(dataset=dataset)
    job = world.submit(spec)
    for path in (f"datasets/{dataset}", f"models/{spec['reference']}", f"models/{spec['learner']['model']}"):
        problem(world.client.delete(f"/v1/{path}"), "in_use", job, "Delete these jobs first")
    problem(world.client.delete(f"/v1/jobs/{job}"), "wrong_state", "QUEUED", ":cancel")
    end(world, job)
    for path in (f"jobs/{job}", f"datasets/{dataset}", f"models/{spec['reference']}"):
        assert world.client.delete(f"/v1/{path}").status_code == 204
        problem(world.client.delete(f"/v1/{path}"), "not_found")


def test_a_replay_refers_to_the_job_whose_schedule_it_repeats(world: World) -> None:
    recorded = world.submit(world.spec(num_batches=2))
    world.publish(recorded, 2)
    replay = world.submit(world.spec(num_batches=2, refresh={"replay": recorded}))
    end(world, recorded)
    problem(world.client.delete(f"/v1/jobs/{recorded}"), "in_use", replay)
    end(world, replay)
    for job in (replay, recorded):
        assert world.client.delete(f"/v1/jobs/{job}").status_code == 204


@pytest.mark.parametrize("kind", ["datasets", "models", "jobs"])
def test_of_a_submit_and_a_deletion_that_race_one_wins(world: World, kind: str) -> None:
    for _ in range(5):
        dataset = world.dataset(rows=(100,))
        spec = world.pushed_spec(dataset=dataset)
        victim = {"datasets": dataset, "models": spec["reference"]}.get(kind)
        if kind == "jobs":
            spec = world.spec(dataset=dataset, num_batches=1)
            victim = world.submit(spec)
            world.publish(victim, 1)
            end(world, victim)
            spec = spec | {"refresh": {"replay": victim}}
        with ThreadPoolExecutor(3) as pool:
            submitting = [pool.submit(world.client.post, "/v1/jobs", json=spec) for _ in range(2)]
            deleting = pool.submit(world.client.delete, f"/v1/{kind}/{victim}")
        statuses = {each.result().status_code for each in submitting}
        assert (statuses, deleting.result().status_code) in [({202}, 409), ({422}, 204)]
        with read(world.engine) as connection:
            rows = connection.execute(jobs.select()).mappings().all()
            known = {name for table in (datasets, models) for name in connection.execute(table.select()).scalars()}
        for row in rows:
            assert {row["dataset_id"], row["reference_id"] or row["dataset_id"]} <= known
        for job in [each.result().json()["id"] for each in submitting if each.result().status_code == 202]:
            end(world, job)
