"""Pushed checkpoints: what is let in, and which one scores next."""

from __future__ import annotations

import pickle
import struct

import pytest

from superbatch_server.schemas.attempts import RefreshState
from superbatch_server.schemas.errors import NotFound
from superbatch_server.service.catalog.checkpoints import begin_verifying, refresh_state
from superbatch_server.service.catalog.engine import read, write
from tests.service.api.world import Json, World, answered, problem, safetensors_of, sha256


@pytest.fixture
def job(world: World) -> str:
    """A job with a pushed learner and six batches published."""
    job = world.submit(world.pushed_spec())
    world.publish(job, 6)
    return job


def refused(world: World, job: str, push: Json, code: str, *said: str) -> None:
    """Check that a push is refused and that nothing of it is kept."""
    before = world.get(f"/v1/jobs/{job}/checkpoints")
    problem(world.client.post(f"/v1/jobs/{job}/checkpoints", json=push), code, *said)
    assert world.get(f"/v1/jobs/{job}/checkpoints") == before


def refusals(world: World, job: str) -> list[str]:
    """Return what the job's history says about files that were refused."""
    events = world.get(f"/v1/jobs/{job}/events")["events"]
    return [event["message"] for event in events if event["kind"] == "checkpoint_refused"]


def push_of(world: World, content: bytes, trained_seq: int = 1, **change: str) -> Json:
    return {"trained_seq": trained_seq, "files": [world.file_ref("weights", content) | change]}


def states(world: World, job: str) -> dict[int, tuple[str, int | None]]:
    """Return trained_seq -> (state, generation)."""
    listed = world.get(f"/v1/jobs/{job}/checkpoints")["checkpoints"]
    return {found["trained_seq"]: (found["state"], found["generation"]) for found in listed}


def state_for_driver(world: World, job: str) -> RefreshState:
    with read(world.engine) as connection:
        return refresh_state(connection, job)


def test_a_pushed_checkpoint_is_received(world: World, job: str) -> None:
    found = world.push(job, 4)
    assert (found["job"], found["trained_seq"], found["state"], found["generation"]) == (job, 4, "RECEIVED", None)
    assert world.get(f"/v1/jobs/{job}/checkpoints")["checkpoints"] == [found]


def test_the_same_push_is_the_same_checkpoint_in_its_present_state(world: World, job: str) -> None:
    first = world.push(job, 4)
    world.verdict(job, first["id"])
    again = world.push(job, 4)
    assert (again["id"], again["state"]) == (first["id"], "ACTIVE")


def test_after_a_rewind_the_same_bytes_count_again(world: World, job: str) -> None:
    answered(world.put_consumer(job, world.report(job, 4)), 200)
    first = world.push(job, 4)
    world.verdict(job, first["id"])
    answered(world.put_consumer(job, world.report(job, 2, rewind=True)), 200)
    second = world.push(job, 4)
    assert second["id"] != first["id"]
    assert second["state"] == "RECEIVED"
    assert world.verdict(job, second["id"])["generation"] == 2


def test_a_pickle(world: World, job: str) -> None:
    refused(world, job, push_of(world, pickle.dumps({"w": [1.0]})), "pickle_refused", "save_file")


def test_a_wrong_header(world: World, job: str) -> None:
    refused(world, job, push_of(world, b"\x20" + bytes(99)), "not_safetensors", "header")


def test_a_file_that_was_cut_off(world: World, job: str) -> None:
    refused(world, job, push_of(world, safetensors_of(1.0)[:-2]), "not_safetensors")


def test_a_header_that_is_too_large(world: World, job: str) -> None:
    content = struct.pack("<Q", 10_000_001) + b"{" + b" " * 10_000_000 + bytes(64)
    refused(world, job, push_of(world, content), "not_safetensors", "a header of 10000001 bytes")


def test_a_refused_file_leaves_the_old_one_active_and_stands_in_the_history(world: World, job: str) -> None:
    world.verdict(job, world.push(job, 1)["id"])
    refused(world, job, push_of(world, pickle.dumps({"w": [1.0]}), 2), "pickle_refused")
    refused(world, job, push_of(world, safetensors_of(1.0)[:-2], 2), "not_safetensors")
    refused(world, job, push_of(world, safetensors_of(1.0), 2, sha256=sha256(b"")), "digest_mismatch")
    refused(world, job, push_of(world, safetensors_of(1.0, superbatch_job="job_0123456789abcdef"), 2), "wrong_job")
    found = [message.partition(":")[0] for message in refusals(world, job)]
    assert found == ["pickle_refused", "not_safetensors", "digest_mismatch", "wrong_job"]
    assert states(world, job) == {1: ("ACTIVE", 1)}
    world.verdict(job, world.push(job, 2)["id"])
    assert states(world, job) == {1: ("SUPERSEDED", 1), 2: ("ACTIVE", 2)}


def test_a_wrong_digest(world: World, job: str) -> None:
    refused(world, job, push_of(world, safetensors_of(1.0), sha256=sha256(b"")), "digest_mismatch", sha256(b""))


def test_a_missing_file(world: World, job: str) -> None:
    refused(world, job, push_of(world, safetensors_of(1.0), key="nowhere"), "object_missing", "nowhere")


def test_an_unknown_root(world: World, job: str) -> None:
    refused(world, job, push_of(world, safetensors_of(1.0), root="other"), "unknown_root", "'other'")


@pytest.mark.parametrize("key", ["../x", "/x", "a/../x"])
def test_an_unsafe_key(world: World, job: str, key: str) -> None:
    refused(world, job, push_of(world, safetensors_of(1.0), key=key), "unsafe_key", "relative path")


def test_a_file_that_is_not_the_weights(world: World, job: str) -> None:
    refused(world, job, push_of(world, safetensors_of(1.0), role="config"), "validation", "role 'weights'")


def test_more_batches_than_were_published(world: World, job: str) -> None:
    refused(world, job, push_of(world, safetensors_of(1.0), 7), "seq_beyond_log", "got 7, next_seq = 6")


def test_a_job_without_a_pushed_learner(world: World) -> None:
    job = world.submit()
    refused(world, job, push_of(world, safetensors_of(1.0), 0), "wrong_state", "learner.updates")


def test_the_checkpoint_of_another_job(world: World, job: str) -> None:
    world.push(job, 1, value=5.0)
    other = world.submit(world.pushed_spec())
    refused(world, other, push_of(world, safetensors_of(5.0), 0), "wrong_job", job)


def test_a_file_that_says_it_is_another_jobs(world: World, job: str) -> None:
    noted = push_of(world, safetensors_of(1.0, superbatch_job="job_0123456789abcdef"))
    refused(world, job, noted, "wrong_job", "job_0123456789abcdef")
    own = push_of(world, safetensors_of(1.0, superbatch_job=job))
    answered(world.client.post(f"/v1/jobs/{job}/checkpoints", json=own), 202)


def test_the_newest_verified_one_is_active_and_each_activation_is_a_generation(world: World, job: str) -> None:
    for seq in (1, 2):
        world.verdict(job, world.push(job, seq)["id"])
    assert states(world, job) == {1: ("SUPERSEDED", 1), 2: ("ACTIVE", 2)}
    assert world.get(f"/v1/jobs/{job}/stats")["generation"] == 2


def test_a_failed_one_leaves_the_old_one_active(world: World, job: str) -> None:
    world.verdict(job, world.push(job, 1)["id"])
    found = world.verdict(job, world.push(job, 2)["id"], ok=False, reason="row 3 is not finite")
    assert (found["state"], found["reason"]) == ("REJECTED", "row 3 is not finite")
    assert states(world, job) == {1: ("ACTIVE", 1), 2: ("REJECTED", None)}


def test_one_that_is_verified_late_is_superseded(world: World, job: str) -> None:
    late, newer = world.push(job, 1)["id"], world.push(job, 2)["id"]
    world.verdict(job, newer)
    assert states(world, job) == {1: ("SUPERSEDED", None), 2: ("ACTIVE", 1)}
    world.verdict(job, late)
    assert states(world, job) == {1: ("SUPERSEDED", None), 2: ("ACTIVE", 1)}


def test_an_active_one_that_fails_later_gives_way_to_the_one_before(world: World, job: str) -> None:
    pushed = {seq: world.push(job, seq)["id"] for seq in (1, 2)}
    for seq in (1, 2):
        world.verdict(job, pushed[seq])
    world.verdict(job, pushed[2], ok=False, reason="too few finite candidates")
    assert states(world, job) == {1: ("ACTIVE", 3), 2: ("REJECTED", 2)}
    world.verdict(job, pushed[1], ok=False)
    assert states(world, job) == {1: ("REJECTED", 3), 2: ("REJECTED", 2)}
    assert state_for_driver(world, job).active is None


def test_a_verdict_may_be_repeated(world: World, job: str) -> None:
    pushed = world.push(job, 1)["id"]
    assert world.verdict(job, pushed) == world.verdict(job, pushed)
    assert world.verdict(job, pushed, ok=False) == world.verdict(job, pushed, ok=False)
    assert world.verdict(job, pushed)["state"] == "REJECTED"


def test_a_verdict_on_another_jobs_checkpoint_is_refused(world: World, job: str) -> None:
    other = world.submit(world.pushed_spec())
    with pytest.raises(NotFound, match=other):
        world.verdict(other, world.push(job, 1)["id"])


def test_the_driver_sees_credit_the_active_one_and_the_newest_that_is_to_be_tried(world: World, job: str) -> None:
    assert state_for_driver(world, job) == RefreshState(
        consumer_trained_seq=0, consumer_live=True, active=None, unverified=None
    )
    answered(world.put_consumer(job, world.report(job, 3)), 200)
    first, second = world.push(job, 1)["id"], world.push(job, 3)["id"]
    seen = state_for_driver(world, job)
    assert (seen.consumer_trained_seq, seen.consumer_live, seen.active) == (3, True, None)
    assert seen.unverified is not None
    assert seen.unverified.id == second
    with write(world.engine) as connection:
        begin_verifying(connection, job, second)
    assert states(world, job)[3] == ("VERIFYING", None)
    world.verdict(job, second)
    seen = state_for_driver(world, job)
    assert seen.active is not None
    assert (seen.active.id, seen.active.generation) == (second, 1)
    assert seen.unverified is None, f"{first} is older than the active one"


def test_an_older_push_does_not_replace_a_newer_one(world: World, job: str) -> None:
    world.verdict(job, world.push(job, 4)["id"])
    older = world.push(job, 2)
    assert older["state"] == "RECEIVED"
    assert state_for_driver(world, job).unverified is None
