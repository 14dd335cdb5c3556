"""Jobs after submission: cancel, retry, delete, history."""

from __future__ import annotations

from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.queue import end_job
from tests.service.api.world import World, problem


def end(world: World, job: str, state: JobState) -> None:
    with write(world.engine) as connection:
        end_job(connection, job, state, code="shard_failed", message="a shard; got none (job). Restore it.")


def test_a_queued_job_is_cancelled_at_once_and_again(world: World) -> None:
    job = world.submit()
    for _ in range(2):
        assert world.post(f"/v1/jobs/{job}:cancel", {}, status=200)["state"] == "CANCELLED"
    problem(world.client.post(f"/v1/jobs/{job}:retry"), "wrong_state", "CANCELLED")


def test_a_job_that_has_ended_cannot_be_cancelled(world: World) -> None:
    job = world.submit()
    end(world, job, JobState.FAILED)
    problem(world.client.post(f"/v1/jobs/{job}:cancel"), "wrong_state", "FAILED")


def test_a_failed_job_says_why_and_may_be_retried(world: World) -> None:
    job = world.submit()
    problem(world.client.post(f"/v1/jobs/{job}:retry"), "wrong_state", "QUEUED")
    end(world, job, JobState.FAILED)
    failed = world.get(f"/v1/jobs/{job}")
    assert (failed["state"], failed["error_code"]) == ("FAILED", "shard_failed")
    retried = world.post(f"/v1/jobs/{job}:retry", {}, status=200)
    assert (retried["state"], retried["error"], retried["history_id"]) == ("QUEUED", None, failed["history_id"])


def test_a_retry_whose_answer_was_lost_may_be_sent_again(world: World) -> None:
    job = world.submit()
    end(world, job, JobState.FAILED)
    headers = {"Idempotency-Key": "once"}
    first, second = (world.post(f"/v1/jobs/{job}:retry", {}, status=200, headers=headers) for _ in range(2))
    assert first == second


def test_only_a_job_that_has_ended_can_be_deleted(world: World) -> None:
    job = world.submit()
    problem(world.client.delete(f"/v1/jobs/{job}"), "wrong_state", "QUEUED", f"{job}:cancel")
    end(world, job, JobState.SUCCEEDED)
    assert world.client.delete(f"/v1/jobs/{job}").status_code == 204
    problem(world.client.get(f"/v1/jobs/{job}"), "not_found")


def test_events_come_in_order_and_in_pages(world: World) -> None:
    job = world.submit()
    with write(world.engine) as connection:
        for number in range(5):
            add_event(connection, job, "note", f"note {number}", {"number": number})
    first = world.get(f"/v1/jobs/{job}/events?page_size=4")
    second = world.get(f"/v1/jobs/{job}/events?page_size=4&page_token={first['next_page_token']}")
    assert [event["message"] for event in first["events"] + second["events"]][1:] == [f"note {n}" for n in range(5)]
    assert second["next_page_token"] is None
    assert second["events"][-1]["fields"] == {"number": 4}
    after = first["events"][-1]["id"]
    assert world.get(f"/v1/jobs/{job}/events?after={after}")["events"] == second["events"]


def test_jobs_are_listed_newest_first(world: World) -> None:
    dataset = world.dataset()
    jobs = [world.submit(world.spec(dataset=dataset, name=str(number))) for number in range(3)]
    page = world.get("/v1/jobs?page_size=2")
    rest = world.get(f"/v1/jobs?page_size=2&page_token={page['next_page_token']}")
    assert {job["id"] for job in page["jobs"] + rest["jobs"]} == set(jobs)
    assert (len(page["jobs"]), len(rest["jobs"]), rest["next_page_token"]) == (2, 1, None)
