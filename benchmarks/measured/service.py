"""How long `superbatch serve` takes to its first healthy answer, and what a commit adds to a batch."""

from __future__ import annotations

import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from measured.commit_driver import BATCH_ROWS, CANDIDATES, EVENT, NUM_COMMITS

DRIVER = Path(__file__).with_name("commit_driver.py")
LIMIT_S = 60.0


def measure_service(*, num_starts: int) -> dict[str, float]:
    """Return median seconds to ready over `num_starts` fresh starts, and median milliseconds of a commit."""
    ready_s = []
    with tempfile.TemporaryDirectory() as folder:
        for start in range(num_starts):
            with running(Path(folder) / str(start), roots={}) as (_, seconds):
                ready_s.append(seconds)
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
    with running(folder / "commit", roots={"shards": str(shards)}) as (http, _):
        shard = {"key": "0.tar", "rows": 2 * CANDIDATES}
        dataset = http.post("/v1/datasets", json={"name": "made", "root": "shards", "shards": [shard]}).json()["id"]
        wait_state(http, f"/v1/datasets/{dataset}", "READY")
        selection = {"method": "uniform", "b": BATCH_ROWS, "f": 0.8}
        body = {"kind": "curate", "dataset": dataset, "selection": selection, "num_batches": NUM_COMMITS}
        job = http.post("/v1/jobs", json=body).raise_for_status().json()["id"]
        wait_state(http, f"/v1/jobs/{job}", "SUCCEEDED")
        events = http.get(f"/v1/jobs/{job}/events").json()["events"]
    return float(next(event["fields"]["median_ms"] for event in events if event["kind"] == EVENT))


@contextmanager
def running(data_dir: Path, *, roots: dict[str, str]) -> Iterator[tuple[httpx.Client, float]]:
    """Run the service; yield a client and the seconds from start to its first healthy answer."""
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "SUPERBATCH_DATA_DIR": str(data_dir),
        "SUPERBATCH_PORT": "0",
        "SUPERBATCH_ROOTS": json.dumps(roots),
        "SUPERBATCH_DRIVER_COMMAND": json.dumps([sys.executable, str(DRIVER)]),
    }
    start = time.perf_counter()
    command = [sys.executable, "-m", "superbatch_server.service.serve"]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        url = wait_healthy(data_dir)
        seconds = time.perf_counter() - start
        token = (data_dir / "token").read_text().strip()
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as http:
            yield http, seconds
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=30)


def wait_healthy(data_dir: Path) -> str:
    """Return the address once it answers."""
    stop = time.monotonic() + LIMIT_S
    while time.monotonic() < stop:
        try:
            url = str(json.loads((data_dir / "service.json").read_text())["url"])
            if httpx.get(f"{url}/healthz", timeout=1).is_success:
                return url
        except (OSError, ValueError, httpx.HTTPError):
            pass
        time.sleep(0.01)
    raise TimeoutError(f"the service on {data_dir} was not healthy within {LIMIT_S} s")


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
