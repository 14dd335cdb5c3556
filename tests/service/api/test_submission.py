"""Submitting a job: everything that can be refused is refused before 202, with the numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from superbatch_server.schemas.errors import ResourcesTooSmall
from superbatch_server.service.settings import Settings
from superbatch_server.service.submission import check_load
from tests.service.api.world import Json, World, answered, problem, tar_of


def refused(world: World, spec: Json, code: str, *said: str) -> None:
    """Check that a spec is refused and that no job came of it."""
    before = world.get("/v1/jobs")
    problem(world.client.post("/v1/jobs", json=spec), code, *said)
    assert world.get("/v1/jobs") == before


def test_an_accepted_job_is_queued_and_has_an_address(world: World) -> None:
    response = world.client.post("/v1/jobs", json=world.spec())
    job = answered(response, 202)
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["next_seq"], job["num_batches"], job["attempt"]) == ("QUEUED", 0, 20, 0)
    assert world.get(response.headers["location"]) == job


@pytest.mark.parametrize(
    ("selection", "draw", "block_rows"),
    [
        ({"b": 4, "f": 0.5}, {}, 1),  # B = 8
        ({"b": 16, "f": 0.5}, {}, 2),  # B = 32
        ({"b": 16, "f": {"points": [[0, 0.5], [10, 0.0]]}}, {}, 1),  # smallest B = 16
        ({"b": 16, "f": {"points": [[0, 0.5], [1000, 0.0]]}}, {}, 2),  # f = 0 comes after the last batch
        ({"b": 16, "f": 0.5}, {"block_rows": 7}, 7),
    ],
)
def test_the_block_is_fixed_at_submission(world: World, selection: Json, draw: Json, block_rows: int) -> None:
    job = world.post("/v1/jobs", world.spec(selection=selection, draw=draw))
    assert job["spec"]["draw"]["block_rows"] == block_rows


def test_a_large_super_batch_has_blocks_of_256(world: World) -> None:
    world.put_file("large.tar", tar_of(1))
    found = world.post("/v1/datasets", {"name": "x", "root": "pool", "shards": [{"key": "large.tar", "rows": 100_000}]})
    world.verify()
    job = world.post("/v1/jobs", world.spec(dataset=found["id"], selection={"b": 4096, "f": 0.8}))
    assert job["spec"]["draw"]["block_rows"] == 256


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"N": 5}, "N = 5, b = 4"),
        ({"f": 1.0}, "selection.f"),
        ({"f": -0.1}, "selection.f"),
        ({"f": {"points": [[0, 0.5], [10, 1.5]]}}, "selection.f"),
        ({"f": {"points": [[5, 0.5]]}}, "selection.f"),
        ({"b": 0}, "selection.b"),
        ({"gain": -1}, "selection.gain"),
        ({"gain": "NaN"}, "selection.gain"),
        ({"method": "magic"}, "selection.method"),
        ({"method": "gibbs"}, "selection.method"),
        ({"method": "greedy"}, "selection.method"),
        ({"loss": "hinge"}, "selection.loss"),
        ({"precision": "fp8"}, "selection.precision"),
        ({"repetition_cap": 0}, "selection.repetition_cap"),
        ({"max_cosine": 0}, "selection.max_cosine"),
        ({"max_cosine": 1.01}, "selection.max_cosine"),
        ({"loss": "softmax", "probe_size": 0}, "selection.probe_size"),
        ({"probe_size": 4}, "belong to loss softmax"),
        ({"max_cosine": 0.9}, "max_cosine needs a model"),
        ({"chunks": 3}, "selection.chunks is no field"),
    ],
)
def test_a_selection_outside_its_bounds(world: World, selection: Json, said: str) -> None:
    refused(world, world.spec(selection=selection), "validation", said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "train"}, "kind"),
        ({"num_batches": 0}, "num_batches"),
        ({"seed": -1}, "seed"),
        ({"colour": "red"}, "colour is no field"),
        ({"refresh": {"max_staleness": 0}}, "refresh.max_staleness"),
        ({"lists": {"batches_per_list": 0}}, "lists.batches_per_list"),
        ({"dataset": "../../x"}, "dataset"),
        ({"learner": {"model": "model_0123456789abcdef", "updates": "sometimes"}}, "learner.updates"),
    ],
)
def test_a_spec_outside_its_bounds(world: World, change: Json, said: str) -> None:
    refused(world, world.spec(**change), "validation", said)


def test_a_criterion_without_its_models(world: World) -> None:
    refused(world, world.spec(selection={"method": "joint"}), "validation", "needs a reference")
    spec = world.spec(selection={"method": "joint"}, reference=world.model())
    refused(world, spec, "validation", "needs a learner")


def test_a_super_batch_larger_than_the_data_set(world: World) -> None:
    refused(world, world.spec(selection={"b": 51, "f": 0.5}), "super_batch_too_large", "B = 102", "100 rows")
    later = {"b": 20, "f": {"points": [[0, 0.0], [10, 0.9]], "between": "linear"}}
    refused(world, world.spec(selection=later), "super_batch_too_large", "B = 200")
    answered(world.client.post("/v1/jobs", json=world.spec(selection=later, num_batches=5)), 202)


def test_a_cap_that_forbids_the_last_batches(world: World) -> None:
    selection = {"method": "uniform", "b": 20, "N": 1, "f": 0.5, "repetition_cap": 2}  # 100 rows
    refused(
        world,
        world.spec(selection=selection, num_batches=11),
        "repetition_cap_too_low",
        "11 * 20 = 220 and 2 * 100 = 200",
        "Raise repetition_cap to 3, or lower num_batches to 10",
    )
    job = world.post("/v1/jobs", world.spec(selection=selection, num_batches=10))
    assert job["spec"]["selection"]["repetition_cap"] == 2


@pytest.mark.parametrize(
    ("num_batches", "f", "told"),
    [
        (6, 0.5, False),  # before batch 5, 100 examples: no more than 0.5 * 2 * 100
        (7, 0.5, True),
        (7, {"points": [[0, 0.5], [6, 0.8]]}, False),
        (7, {"points": [[0, 0.8], [3, 0.0]]}, True),  # a whole super-batch must be below the cap
        (9, {"points": [[0, 0.5], [8, 0.8]]}, True),  # just before f rises
    ],
)
def test_a_cap_that_may_leave_too_few_is_an_event_of_the_job(
    world: World, num_batches: int, f: object, told: bool
) -> None:
    selection = {"method": "uniform", "b": 20, "N": 1, "f": f, "repetition_cap": 2}
    job = world.post("/v1/jobs", world.spec(selection=selection, num_batches=num_batches))
    events = world.get(f"/v1/jobs/{job['id']}/events")["events"]
    assert ("repetition_cap_tight" in [event["kind"] for event in events]) == told


def test_a_data_set_that_is_not_ready(world: World) -> None:
    manifest = {"name": "x", "root": "pool", "shards": [{"key": "nowhere.tar"}]}
    dataset = world.post("/v1/datasets", manifest)["id"]
    refused(world, world.spec(dataset=dataset), "dataset_not_ready", "VERIFYING")
    world.verify()
    refused(world, world.spec(dataset=dataset), "dataset_not_ready", "INVALID", "nowhere.tar")
    refused(world, world.spec(dataset="dataset_0000000000000000"), "dataset_not_ready", "must exist")


def test_a_model_that_is_not_ready(world: World) -> None:
    spec = world.pushed_spec()
    files = world.model_files(weights=b"nothing")
    model = world.post("/v1/models", {"name": "m", "family": "tiny", "files": files})["id"]
    refused(world, spec | {"reference": model}, "model_not_ready", "VERIFYING", model)
    world.verify()
    refused(world, world.pushed_spec(reference=model), "model_not_ready", "INVALID")
    refused(world, world.pushed_spec(reference="model_0000000000000000"), "model_not_ready", "must exist")
    refused(world, world.pushed_spec(learner={"model": model}), "model_not_ready", model)


def test_a_model_that_must_have_weights(world: World) -> None:
    bare = world.model(has_weights=False)
    refused(world, world.pushed_spec(reference=bare), "weights_missing", "field reference")
    refused(world, world.pushed_spec(learner={"model": bare}), "weights_missing", "learner.model")
    initial = {"before_first": "initial_weights"}
    refused(world, world.pushed_spec(refresh=initial), "weights_missing", "before_first")
    learner = {"model": world.model(), "updates": "pushed"}
    answered(world.client.post("/v1/jobs", json=world.pushed_spec(refresh=initial, learner=learner)), 202)


def test_a_fixed_learner_needs_no_reference_for_hard_learner(world: World) -> None:
    spec = world.spec(selection={"method": "joint", "criterion": "hard_learner"}, learner={"model": world.model()})
    answered(world.client.post("/v1/jobs", json=spec), 202)


def replaying(job: str, **changes: Any) -> Json:
    return {"refresh": {"replay": job}} | changes


def test_a_schedule_is_replayed_only_where_it_fits(world: World) -> None:
    dataset = world.dataset()
    recorded = world.submit(world.spec(dataset=dataset, draw={"block_rows": 3}, num_batches=5))
    world.publish(recorded, 4)
    spec = world.spec(dataset=dataset, **replaying(recorded, num_batches=4))
    refused(world, spec | {"num_batches": 5}, "replay_mismatch", "got 5, recorded are 4")
    refused(world, spec | {"dataset": world.dataset(rows=(40,))}, "replay_mismatch", "same dataset")
    refused(world, spec | {"selection": spec["selection"] | {"b": 5}}, "replay_mismatch", "same selection.b", "got 5")
    refused(world, spec | {"draw": {"block_rows": 2}}, "replay_mismatch", "block_rows", "recorded with 3")
    refused(world, spec | {"refresh": {"replay": "job_0000000000000000"}}, "replay_mismatch", "must exist")
    softmax = spec | {"selection": spec["selection"] | {"loss": "softmax"}}
    refused(world, softmax, "replay_mismatch", "same selection.loss", "got softmax, recorded with sigmoid")
    refused(world, spec | {"seed": 1}, "replay_mismatch", "same seed", "got 1, recorded with 0")
    refused(world, spec | {"reference": world.model()}, "replay_mismatch", "same reference")
    job = world.post("/v1/jobs", spec)
    assert job["spec"]["draw"]["block_rows"] == 3


def test_a_job_whose_schedule_is_replayed_is_kept(world: World) -> None:
    dataset = world.dataset()
    recorded = world.submit(world.spec(dataset=dataset, num_batches=1))
    world.publish(recorded)
    replay = world.submit(world.spec(dataset=dataset, **replaying(recorded, num_batches=1)))
    world.post(f"/v1/jobs/{recorded}:cancel", {}, status=200)
    problem(world.client.delete(f"/v1/jobs/{recorded}"), "wrong_state", "CANCELLING")
    world.post(f"/v1/jobs/{replay}:cancel", {}, status=200)
    assert world.client.delete(f"/v1/jobs/{replay}").status_code == 204


def settings(folder: Path, **changes: Any) -> Settings:
    return Settings(data_dir=folder, **({"num_workers": 1} | changes))


def test_too_many_threads_are_refused_with_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "crowded").mkdir()
    crowded = World(tmp_path / "crowded", threads_per_worker=1000)
    refused(crowded, crowded.spec(), "resources_too_small", "1000", "cores")
    crowded.close()


def test_more_threads_than_cores_are_told_and_four_times_as_many_refused(tmp_path: Path) -> None:
    assert check_load(settings(tmp_path, num_workers=2, threads_per_worker=4), 2).threads == 8
    assert check_load(settings(tmp_path, composer_threads=6), 2).threads == 6
    with pytest.raises(ResourcesTooSmall, match=r"3 \* 3.*9 threads on 2 cores"):
        check_load(settings(tmp_path, num_workers=3, threads_per_worker=3), 2)


def test_a_crowded_machine_is_an_event_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    busy = World(tmp_path / "busy", threads_per_worker=2 * (os.cpu_count() or 1))
    events = busy.get(f"/v1/jobs/{busy.submit()}/events")["events"]
    assert [event["kind"] for event in events] == ["submitted", "resources_short"]
    busy.close()
