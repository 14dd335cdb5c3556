"""How long `superbatch serve` takes to its first healthy answer, and what a commit adds to a batch."""

from __future__ import annotations

import io
import json
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import httpx

from measured.commit_driver import BATCH_ROWS, CANDIDATES, EVENT, NUM_COMMITS
from superbatch_server.service.demo.api import read_token
from superbatch_server.service.demo.processes import service

DRIVER = Path(__file__).with_name("commit_driver.py")
LIMIT_S = 60.0


def measure_service(*, num_starts: int) -> dict[str, float]:
    """Return median seconds to ready over `num_starts` fresh starts, and median milliseconds of a commit."""
    ready_s = []
    with tempfile.TemporaryDirectory() as folder:
        for start in range(num_starts):
            began_s = time.perf_counter()
            with service(Path(folder) / str(start), {}):
                ready_s.append(time.perf_counter() - began_s)
        commit_ms = measure_commit(Path(folder))
    return {"serve_ready_s": round(statistics.median(ready_s), 3), "commit_overhead_ms": round(commit_ms, 2)}


def measure_commit(folder: Path) -> float:
    """Run a job whose driver only publishes, and return the median of its commits."""
    shards = folder / "shards"
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as tar:
        member = tarfile.TarInfo("0.txt")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"a"))
    data_dir = folder / "commit"
    settings = {"SUPERBATCH_DRIVER_COMMAND": json.dumps([sys.executable, str(DRIVER)])}
    with service(data_dir, {"shards": shards}, settings=settings) as served, client(served.url, data_dir) as http:
        shard = {"key": "0.tar", "rows": 2 * CANDIDATES}
        dataset = http.post("/v1/datasets", json={"name": "made", "root": "shards", "shards": [shard]}).json()["id"]
        wait_state(http, f"/v1/datasets/{dataset}", "READY")
        selection = {"method": "uniform", "b": BATCH_ROWS, "f": 0.8}
        body = {"kind": "curate", "dataset": dataset, "selection": selection, "num_batches": NUM_COMMITS}
        job = http.post("/v1/jobs", json=body).raise_for_status().json()["id"]
        wait_state(http, f"/v1/jobs/{job}", "SUCCEEDED")
        events = http.get(f"/v1/jobs/{job}/events").json()["events"]
    return float(next(event["fields"]["median_ms"] for event in events if event["kind"] == EVENT))


def client(url: str, data_dir: Path) -> httpx.Client:
    """Return a client with the user's token."""
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {read_token(data_dir)}"}, timeout=30)


def wait_state(http: httpx.Client, path: str, state: str) -> None:
    """Poll until the object is in `state`."""
    stop = time.monotonic() + LIMIT_S
    while time.monotonic() < stop:
        found = http.get(path).json()
        if found["state"] == state:
            return
        if found["state"] in ("FAILED", "INVALID"):
            raise RuntimeError(f"{path}: {found}")
        time.sleep(0.05)
    raise TimeoutError(f"{path} was not {state} within {LIMIT_S} s")
