"""Asking for a garbage collection over HTTP; `tests/service/garbage` says what it removes."""

from __future__ import annotations

import os

from superbatch_server.service.upkeep.garbage.collector import Places, collect_pending
from superbatch_server.storage.uploads import Uploads
from tests.service.api.world import Json, World, problem


def work(world: World) -> None:
    """Do the supervisor's part."""
    places = Places(world.engine, world.store, Uploads(world.settings.uploads_dir), world.settings)
    assert collect_pending(places, "worker")


def collected(world: World, body: Json) -> Json:
    run = world.post("/v1/gc", body)
    assert (run["state"], run["report"]["files"]) == ("PENDING", 0)
    work(world)
    return world.get(f"/v1/gc/{run['id']}")


def test_a_run_is_dry_unless_asked_otherwise_and_keeps_what_is_young(world: World) -> None:
    job = world.submit()
    world.publish(job, 2)
    world.post(f"/v1/jobs/{job}:cancel", {}, status=200)
    kept = world.get(f"/v1/jobs/{job}/manifest")
    lost = f"jobs/{job}/{kept['history_id']}/lists/{1:012d}-{2:012d}-0123456789abcdef.parquet"
    world.store.put_new(lost, b"x")
    young = collected(world, {})
    assert (young["state"], young["dry_run"], young["min_age_s"]) == ("SUCCEEDED", True, 86_400.0)
    assert (young["report"]["files"], young["report"]["young_files"]) == (0, 1)
    dry = collected(world, {"min_age_s": 0})["report"]
    assert (dry["files"], dry["bytes"], dry["looked_at"]) == (1, 1, 3)
    [found] = dry["found"]
    assert (found["kind"], len(found["examples"])) == ("list", 1)
    assert world.store.exists(found["examples"][0])
    assert collected(world, {"min_age_s": 0, "dry_run": False})["report"] == dry
    assert not world.store.exists(found["examples"][0])
    assert collected(world, {"min_age_s": 0})["report"]["files"] == 0
    for segment in kept["segments"]:
        assert world.client.get(f"/v1/jobs/{job}/{segment['list']}").status_code == 200


def test_one_run_at_a_time_and_a_repeated_request_is_the_same_run(world: World) -> None:
    headers = {"Idempotency-Key": "once"}
    first, again = (world.post("/v1/gc", {}, headers=headers) for _ in range(2))
    assert first["id"] == again["id"]
    problem(world.client.post("/v1/gc", json={}), "wrong_state", first["id"])
    work(world)
    assert world.post("/v1/gc", {})["id"] != first["id"]


def test_what_is_no_run_or_no_age_is_refused(world: World) -> None:
    problem(world.client.get("/v1/gc/gc_0"), "not_found", "gc_0")
    problem(world.client.post("/v1/gc", json={"min_age_s": -1}), "validation")
    problem(world.client.post("/v1/gc", json={"delete": True}), "validation", "delete is no field")


def test_a_run_that_fails_says_why(world: World) -> None:
    run = world.post("/v1/gc", {"dry_run": False, "min_age_s": 0})
    log = world.settings.logs_dir / "job_0123456789abcdef-1.log"
    log.parent.mkdir()
    log.mkdir()  # a folder where a file is expected cannot be unlinked
    os.utime(log, (0, 0))
    try:
        work(world)
    except OSError as error:
        said = str(error)
    found = world.get(f"/v1/gc/{run['id']}")
    assert found["state"] == "FAILED"
    assert said in found["error"]
