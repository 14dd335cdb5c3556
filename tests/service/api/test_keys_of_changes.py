"""Idempotency-Key on what changes a job, and whose key it is."""

from __future__ import annotations

from tests.service.api.world import World, answered, problem

KEY = {"Idempotency-Key": "the-key"}


def test_rows_are_excluded_once(world: World) -> None:
    path = f"/v1/jobs/{world.submit()}/exclusions"
    body = {"uids": ["1" * 32], "reason": "asked for"}
    first = answered(world.client.post(path, json=body, headers=KEY), 202)
    answered(world.client.post(path, json={"uids": ["2" * 32]}), 202)
    assert answered(world.client.post(path, json=body, headers=KEY), 202) == first
    problem(world.client.post(path, json={"uids": ["3" * 32]}, headers=KEY), "idempotency_mismatch", "'the-key'")


def test_a_verb_is_done_once(world: World) -> None:
    path = f"/v1/jobs/{world.submit()}:cancel"
    first = answered(world.client.post(path, headers=KEY), 200)
    assert answered(world.client.post(path, headers=KEY), 200) == first


def test_a_checkpoint_is_pushed_once_though_its_file_is_gone_by_then(world: World) -> None:
    job_id = world.submit(world.pushed_spec())
    world.publish(job_id)
    answered(world.put_consumer(job_id, world.report(job_id)), 200)
    file = world.model_files(value=3.0)[0]
    path, body = f"/v1/jobs/{job_id}/checkpoints", {"trained_seq": 0, "files": [file]}
    first = answered(world.client.post(path, json=body, headers=KEY), 202)
    (world.data / file["key"]).unlink()
    assert answered(world.client.post(path, json=body, headers=KEY), 202) == first
    problem(world.client.post(path, json=body), "object_missing")


def test_a_key_belongs_to_the_credential_that_sent_it(world: World) -> None:
    token = world.post("/v1/tokens", {"name": "other", "scope": "admin"}, status=201)
    other = world.client_with(Authorization=f"Bearer {token['secret']}")
    spec = world.spec()
    mine = answered(world.client.post("/v1/jobs", json=spec, headers=KEY), 202)
    theirs = answered(other.post("/v1/jobs", json=spec, headers=KEY), 202)
    assert mine["id"] != theirs["id"]
