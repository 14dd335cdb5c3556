"""The runner ray_jobs on a real Ray cluster of two nodes, token authentication on."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from superbatch_server.service.runners.ray_api import RayJobsApi, RayRefused
from tests.e2e.house import LEASE_S, House, running_house, wait_for
from tests.e2e.jobs import register
from tests.e2e.sample_world import World, build
from tests.service.runners.cluster import TOKEN, Cluster, running_cluster

ANYWHERE = {"SUPERBATCH_NUM_WORKERS": "1", "SUPERBATCH_MICRO_BATCH": "32", "SUPERBATCH_THREADS_PER_WORKER": "1"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


def on_cluster(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Return the settings of a service that runs its drivers on the cluster."""
    return {
        **ANYWHERE,
        "SUPERBATCH_RUNNER": "ray_jobs",
        "SUPERBATCH_RAY_ADDRESS": cluster.address,
        "SUPERBATCH_RAY_TOKEN": TOKEN,
        "SUPERBATCH_RAY_SCRATCH_DIR": str(folder / "scratch"),
        "SUPERBATCH_RAY_PATIENCE_S": "5",
        "SUPERBATCH_STOP_GRACE_S": "2",
    }


def jobs_api(cluster: Cluster, token: str | None = TOKEN) -> contextlib.closing[RayJobsApi]:
    """Return a client that is closed with its block."""
    return contextlib.closing(RayJobsApi(cluster.address, token=token))


def is_empty(cluster: Cluster) -> bool:
    """Claim that the cluster knows no submission."""
    with jobs_api(cluster) as api:
        return api.list() == []


def kinds(house: House, job: str) -> list[str]:
    """Return the kinds of a job's events."""
    return [event["kind"] for event in house.get(f"/v1/jobs/{job}/events?page_size=500")["events"]]


@pytest.mark.long
@pytest.mark.slow_ray
@pytest.mark.timeout(170)
def test_a_job_runs_on_a_cluster_that_takes_no_request_without_its_token(world: World, tmp_path: Path) -> None:
    with running_cluster(worker=False) as cluster:
        assert httpx.get(f"{cluster.address}/api/jobs/").status_code == 401
        with jobs_api(cluster, None) as nobody, pytest.raises(RayRefused, match="401"):
            nobody.version()
        with jobs_api(cluster, "another") as other, pytest.raises(RayRefused, match=r"40[13]"):
            other.list()
        with running_house(tmp_path / "service", world.roots, **on_cluster(cluster, tmp_path)) as house:
            registered = register(house, world)
            selection = {"method": "joint", "criterion": "easy_reference", "b": 16, "f": 0.75, "N": 4}
            job = house.post("/v1/jobs", registered.curate(learner=None, selection=selection, num_batches=4))["id"]
            house.wait_state(job, "SUCCEEDED")
            assert len(house.lists(job)) == 2
            wait_for(lambda: is_empty(cluster), what="the submission is forgotten")
            log = (tmp_path / "service" / "logs" / f"{job}-1.log").read_text()
            assert "all batches are published" in log
            assert "ATTEMPT_SECRET" not in log


@pytest.mark.long
@pytest.mark.slow_ray
@pytest.mark.timeout(400)
def test_lists_are_the_local_runners_byte_for_byte(world: World, cluster: Cluster, tmp_path: Path) -> None:
    lists = []
    for name, settings in (("local", ANYWHERE), ("ray", on_cluster(cluster, tmp_path))):
        with running_house(tmp_path / name, world.roots, **settings) as house:
            registered = register(house, world)
            job = house.post("/v1/jobs", registered.static())["id"]
            house.wait_state(job, "SUCCEEDED", limit_s=300)
            lists.append(sorted(data for data in house.lists(job).values()))
            assert kinds(house, job).count("attempt_crashed") == 0
    assert lists[0] == lists[1]
    assert len(lists[0]) == 12


@pytest.mark.long
@pytest.mark.slow_ray
@pytest.mark.timeout(600)
def test_killed_drivers_and_a_killed_worker_node_change_no_byte(world: World, cluster: Cluster, tmp_path: Path) -> None:
    lists = []
    for name, disturbed in (("calm", False), ("disturbed", True)):
        with running_house(tmp_path / name, world.roots, **on_cluster(cluster, tmp_path / name)) as house:
            registered = register(house, world)
            job = house.post("/v1/jobs", registered.static(num_batches=40))["id"]
            if disturbed:
                disturb(house, cluster, job)
            house.wait_state(job, "SUCCEEDED", limit_s=200)
            lists.append(sorted(house.lists(job).values()))
    assert lists[0] == lists[1]


def disturb(house: House, cluster: Cluster, job: str) -> None:
    """Kill the driver once, stop its submission behind the supervisor's back, and kill the worker node."""
    wait_for(lambda: house.get(f"/v1/jobs/{job}")["next_seq"] >= 2, what="the first batches", limit_s=240)
    [driver] = cluster.drivers()
    driver.send_signal(signal.SIGKILL)
    wait_for(lambda: "attempt_crashed" in kinds(house, job), what="the kill is noticed", limit_s=20)
    wait_for(lambda: kinds(house, job).count("attempt_began") == 2, what="a second attempt", limit_s=20)
    wait_for(lambda: cluster.drivers(), what="its driver runs", limit_s=60)
    with jobs_api(cluster) as api:
        api.stop(f"{job}-2")
    wait_for(lambda: kinds(house, job).count("attempt_began") == 3, what="a third attempt", limit_s=20)
    seq = house.get(f"/v1/jobs/{job}")["next_seq"]
    wait_for(lambda: house.get(f"/v1/jobs/{job}")["next_seq"] > seq, what="it publishes", limit_s=120)
    cluster.kill("worker")


@pytest.mark.long
@pytest.mark.slow_ray
@pytest.mark.timeout(600)
def test_a_head_that_goes_away_costs_one_attempt_and_the_next_runs_on_the_new_one(
    world: World, cluster: Cluster, tmp_path: Path
) -> None:
    with running_house(tmp_path / "service", world.roots, **on_cluster(cluster, tmp_path)) as house:
        registered = register(house, world)
        job = house.post("/v1/jobs", registered.static(num_batches=40))["id"]
        wait_for(lambda: house.get(f"/v1/jobs/{job}")["next_seq"] >= 2, what="the first batches", limit_s=240)
        cluster.kill("worker")
        cluster.kill("head")
        wait_for(lambda: "attempt_crashed" in kinds(house, job), what="the runner is lost", limit_s=60)
        assert house.get(f"/v1/jobs/{job}")["state"] == "QUEUED", "nothing is claimed while the head is away"
        cluster.start_head()
        house.wait_state(job, "SUCCEEDED", limit_s=200)
        assert kinds(house, job).count("attempt_crashed") == 1


@pytest.mark.long
@pytest.mark.slow_ray
@pytest.mark.timeout(600)
def test_a_driver_outlives_its_supervisor_and_a_lost_one_is_stopped_by_the_next(
    world: World, cluster: Cluster, tmp_path: Path
) -> None:
    with running_house(tmp_path / "service", world.roots, **on_cluster(cluster, tmp_path)) as house:
        registered = register(house, world)
        job = house.post("/v1/jobs", registered.curate())["id"]  # waits for a trainer that never comes
        wait_for(lambda: house.get(f"/v1/jobs/{job}")["next_seq"] >= 2, what="the first batches", limit_s=240)
        [driver] = cluster.drivers()
        house.child("supervisor").kill()
        killed = time.monotonic()
        wait_for(lambda: time.monotonic() > killed + 2 * LEASE_S, what="two leases pass", limit_s=30)
        assert cluster.drivers() == [driver], "it holds its own lease"
        assert kinds(house, job).count("attempt_began") == 1
        driver.suspend()  # its lease runs out; another attempt takes over, and this one is a leftover
        wait_for(lambda: kinds(house, job).count("taken_over") == 1, what="a takeover", limit_s=30)
        wait_for(lambda: not driver.is_running(), what="the leftover is stopped", limit_s=60)
        house.http.post(f"/v1/jobs/{job}:cancel").raise_for_status()
        house.wait_state(job, "CANCELLED")
        wait_for(lambda: is_empty(cluster), what="nothing is left", limit_s=60)
