"""Every service of docker-compose.yml, run by its own command against the others, and its health check."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from superbatch.formats.batch_list import BatchListReader
from tests.deploy.container_world import ContainerWorld
from tests.e2e.house import wait_for
from tests.e2e.sample_world import World, build
from tests.service.postgres import why_not

pytestmark = [
    pytest.mark.long,
    pytest.mark.slow_ray,
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
]
VARIABLES = {"SUPERBATCH_NUM_WORKERS": "1", "RAY_HEAD_CPUS": "2", "RAY_WORKER_CPUS": "2"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ContainerWorld]:
    small = build(tmp_path / "world")
    world = ContainerWorld(small.shards, small.models, variables=VARIABLES)
    try:
        yield world
    finally:
        world.close()


def test_the_parts_start_in_order_run_a_job_and_say_how_they_are(world: ContainerWorld, tmp_path: Path) -> None:
    for name in ("postgres", "api", "ray-head", "supervisor", "ray-worker"):
        assert not world.is_healthy(name), "nothing is well before it runs"
        world.start(name)
        world.wait_healthy(name)

    token = (world.folder / "data" / "token").read_text().strip()
    with httpx.Client(base_url=world.url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as http:
        run_a_job(http, tmp_path)
        [supervisor] = http.get("/v1/supervisors").json()["supervisors"]
        assert (supervisor["runner"], supervisor["is_live"]) == ("ray_jobs", True)
        assert http.get("/v1/health", headers={"Host": "api:8600"}).status_code == 200
        assert http.get("/v1/health", headers={"Host": "somebody:8600"}).status_code == 403

        password = (world.folder / "secrets" / "postgres_password").read_text()
        assert not [name for name in ("ray-head", "ray-worker") if seen_in(world, name, password)]

        assert world.stop("ray-worker", signal.SIGKILL) == -signal.SIGKILL
        world.wait_healthy("ray-worker", healthy=False)
        assert world.stop("supervisor") == 0
        world.wait_healthy("supervisor", healthy=False)
        world.stop("ray-head", signal.SIGKILL)
        world.wait_healthy("ray-head", healthy=False)
        world.stop("postgres", signal.SIGINT)
        world.wait_healthy("api", healthy=False)
        assert http.get("/v1/health").status_code == 200, "the API lives, it only cannot serve"
        assert http.get("/healthz").status_code == 503
        assert world.stop("api") == 0
        assert not world.is_healthy("api")


def run_a_job(http: httpx.Client, tmp_path: Path) -> None:
    """Register data and model by REST, run a small job, and read its lists."""
    small = World(tmp_path / "world" / "shards", tmp_path / "world" / "models")
    manifest = small.manifest() | {"root": "datasets"}
    dataset = http.post("/v1/datasets", json=manifest).raise_for_status().json()["id"]
    model = {"name": "reference", "family": "tiny", "files": small.model_files("reference")}
    reference = http.post("/v1/models", json=model).raise_for_status().json()["id"]
    for path in (f"/v1/datasets/{dataset}", f"/v1/models/{reference}"):
        wait_for(lambda path=path: http.get(path).json()["state"] == "READY", what=f"{path} READY")
    selection = {"method": "joint", "criterion": "easy_reference", "b": 16, "f": 0.75, "N": 4}
    spec = {"kind": "curate", "dataset": dataset, "reference": reference, "learner": None, "selection": selection}
    job = http.post("/v1/jobs", json={**spec, "num_batches": 4, "seed": 1}).raise_for_status().json()["id"]

    def state() -> str:
        found = http.get(f"/v1/jobs/{job}").json()
        assert found["state"] != "FAILED", found
        return str(found["state"])

    wait_for(lambda: state() == "SUCCEEDED", what="the job", limit_s=200)
    segments = http.get(f"/v1/jobs/{job}/manifest").json()["segments"]
    assert [segment["first_seq"] for segment in segments] == [0, 1, 2, 3]
    for segment in segments:
        data = http.get(f"/v1/jobs/{job}/{segment['list']}").raise_for_status().content
        assert BatchListReader(data).num_batches == 1


def seen_in(world: ContainerWorld, name: str, secret: str) -> bool:
    """Claim that a secret is in the environment or command of a process of a service."""
    for process in world.processes(name):
        try:
            text = " ".join([*process.environ().values(), *process.cmdline()])
        except psutil.Error:
            continue
        if secret in text:
            return True
    return False
