"""Idempotency-Key: a repeated request is the same request, for 24 hours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import update

from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.tables import idempotency
from tests.service.api.world import World, answered, problem

KEY = {"Idempotency-Key": "key-1"}


def test_the_same_request_gets_the_same_answer_and_is_done_once(world: World) -> None:
    spec = world.spec()
    first, second = (world.client.post("/v1/jobs", json=spec, headers=KEY) for _ in range(2))
    assert answered(first, 202) == answered(second, 202)
    assert first.headers["location"] == second.headers["location"]
    assert len(world.get("/v1/jobs")["jobs"]) == 1


def test_without_a_key_each_request_is_another(world: World) -> None:
    spec = world.spec()
    assert world.submit(spec) != world.submit(spec)


def test_the_spelling_of_the_body_does_not_matter(world: World) -> None:
    spec = world.spec()
    first = world.client.post("/v1/jobs", json=spec, headers=KEY)
    second = world.client.post("/v1/jobs", json=dict(reversed(spec.items())) | {"seed": 0}, headers=KEY)
    assert answered(first, 202) == answered(second, 202)


def test_another_body_or_another_address_is_refused(world: World) -> None:
    spec = world.spec()
    answered(world.client.post("/v1/jobs", json=spec, headers=KEY), 202)
    problem(world.client.post("/v1/jobs", json=spec | {"seed": 7}, headers=KEY), "idempotency_mismatch", "'key-1'")
    manifest = {"name": "x", "root": "pool", "shards": [{"key": "a.tar"}]}
    problem(world.client.post("/v1/datasets", json=manifest, headers=KEY), "idempotency_mismatch")


def test_a_refused_request_uses_no_key_up(world: World) -> None:
    spec = world.spec()
    problem(world.client.post("/v1/jobs", json=spec | {"num_batches": 0}, headers=KEY), "validation")
    answered(world.client.post("/v1/jobs", json=spec, headers=KEY), 202)


def test_a_key_is_free_again_after_a_day(world: World) -> None:
    spec = world.spec()
    first = answered(world.client.post("/v1/jobs", json=spec, headers=KEY), 202)
    with write(world.engine) as connection:
        connection.execute(update(idempotency).values(expires_ms=1))
    assert answered(world.client.post("/v1/jobs", json=spec, headers=KEY), 202)["id"] != first["id"]


def test_of_many_at_the_same_time_one_is_done(world: World) -> None:
    spec = world.spec()
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: world.client.post("/v1/jobs", json=spec, headers=KEY), range(12)))
    assert len({answered(answer, 202)["id"] for answer in answers}) == 1


def test_an_empty_key_is_refused(world: World) -> None:
    problem(world.client.post("/v1/jobs", json=world.spec(), headers={"Idempotency-Key": ""}), "validation", "header")


def test_every_creation_takes_a_key(world: World) -> None:
    manifest = {"name": "x", "root": "pool", "shards": [{"key": "a.tar"}]}
    model = {"name": "m", "family": "tiny", "files": world.model_files()}
    for path, body in (("/v1/datasets", manifest), ("/v1/models", model)):
        headers = {"Idempotency-Key": path}
        assert world.post(path, body, headers=headers) == world.post(path, body, headers=headers)
