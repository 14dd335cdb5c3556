"""How the service holds up: 100 trainers and 20 viewers on one machine, a year's jobs in the catalog.

    python benchmarks/service.py [--quick | --tiny] [--database-url URL]

A real `superbatch serve` on a catalog of 1,000 jobs and 100,000 batches (half of them in one job). A driver publishes a
batch every second to one more job; trainers long-poll its manifest; viewers open the dashboard's pages, one every 2 s
each; a client submits two jobs a second. Everything runs on the same cores, clients included.

- delivery: from just before the driver sends a commit (so with the commit's own time) to the first byte at each poller;
- pages: from the request to the last byte, pages and their live fragments with ETag;
- submit: POST /v1/jobs, likewise;
- memory: resident set of the API process, once a second: medians of the first and the last quarter of the run, and the
  growth between the run's middle and its end. A full run takes ten minutes.

The last line is `BENCH {json}`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from measured.bench import Figures, bench_parser, machine, print_figures
from measured.full_catalog import database_url, fill_catalog, spec
from measured.service import client, wait_state

from superbatch_server.service.demo.processes import Served, service

HERE = Path(__file__).parent / "measured"
STARTUP_S = 3.0


@dataclass(frozen=True)
class Size:
    """One configuration; `seconds` is also the number of batches that are published."""

    num_jobs: int
    num_batches: int
    pollers: int
    viewers: int
    seconds: int


SIZES = {
    "full": Size(num_jobs=1_000, num_batches=100_000, pollers=100, viewers=20, seconds=600),
    "quick": Size(num_jobs=1_000, num_batches=100_000, pollers=100, viewers=20, seconds=40),
    "tiny": Size(num_jobs=20, num_batches=200, pollers=4, viewers=2, seconds=3),
}


def main() -> None:
    """Measure what the arguments ask for and print it."""
    parser = bench_parser("The service under 100 trainers and 20 viewers.", quick="40 s under load instead of 600 s")
    parser.add_argument("--database-url", metavar="URL", help="an empty Postgres catalog instead of SQLite")
    given = parser.parse_args()
    size = SIZES[given.mode]
    figures: Figures = {"mode": given.mode, **asdict(size), **machine("fastapi", "uvicorn", "sqlalchemy")}
    with tempfile.TemporaryDirectory() as folder:
        figures |= measure(Path(folder), size, url=given.database_url)
    print_figures(figures)


def measure(folder: Path, size: Size, *, url: str | None) -> Figures:
    """Return the figures of one run."""
    data_dir, pool = folder / "data", folder / "pool"
    for path in (data_dir, pool):
        path.mkdir()
    began_s = time.monotonic()
    longest = fill_catalog(url or database_url(data_dir), num_jobs=size.num_jobs, num_batches=size.num_batches)
    filled_s = time.monotonic() - began_s
    driver = json.dumps([sys.executable, str(HERE / "paced_driver.py")])
    settings = {"SUPERBATCH_DRIVER_COMMAND": driver, "SUPERBATCH_MAX_RUNNING": "1"}
    settings |= {"SUPERBATCH_LEASE_S": "7200", "SUPERBATCH_FIRST_HEARTBEAT_S": "7200"}
    settings |= {"SUPERBATCH_DATABASE_URL": url} if url else {}
    with service(data_dir, {"pool": pool}, settings=settings) as served:
        loaded = under_load(served, data_dir, size, longest=longest)
    return {"catalog": "postgres" if url else "sqlite", "filled_s": round(filled_s, 1), **loaded}


def under_load(served: Served, data_dir: Path, size: Size, *, longest: str) -> Figures:
    """Publish, poll, look and submit side by side."""
    with client(served.url, data_dir) as http:
        body = spec("live", size.seconds).model_dump(mode="json")
        job = http.post("/v1/jobs", json=body).raise_for_status().json()["id"]
        wait_state(http, f"/v1/jobs/{job}", "RUNNING")
        paths = ["/", "/live/home", *(f"{place}jobs/{one}" for place in ("/", "/live/") for one in (longest, job))]
        paths += ["/health", f"/v1/jobs/{longest}/stats", f"/v1/jobs/{job}"]
        waiting = json.dumps(spec("waiting", 10).model_dump(mode="json"))
        crowd = [sys.executable, str(HERE / "crowd.py")]
        common = [served.url, str(data_dir / "token")]
        commands = [
            [*crowd, "pollers", *common, job, str(size.pollers)],
            [*crowd, "viewers", *common, str(size.seconds), str(size.viewers), waiting, *paths],
        ]
        with watched_memory(api_process(served)) as resident_mb:
            arrivals, viewed = run_together(commands)
        wait_state(http, f"/v1/jobs/{job}", "SUCCEEDED")
    (log_path,) = (data_dir / "logs").glob(f"{job}-*.log")
    return delivery(log_path, arrivals, size) | pages(viewed) | memory(resident_mb)


def run_together(commands: Sequence[Sequence[str]]) -> list[object]:
    """Run the commands at the same time; return what the last line of each says."""
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"a crowd ended with {[child.returncode for child in children]}; its reason stands above")
    return [json.loads(text.splitlines()[-1]) for text in said]


def delivery(log_path: Path, arrivals: object, size: Size) -> Figures:
    """Return milliseconds from commit to arrival over all batches and pollers; the first ones meet starting clients."""
    assert isinstance(arrivals, list)
    lines = [line.split() for line in log_path.read_text().splitlines() if line.startswith("commit ")]
    sent_s = {int(seq): float(at_s) for _, seq, at_s in lines}
    told = defaultdict(list)
    for seq, came_s in arrivals:
        told[seq].append(1000 * (came_s - sent_s[seq]))
    assert all(len(each) == size.pollers for each in told.values()), "every poller was told of every batch once"
    assert len(told) == size.seconds
    settled = [each for seq, each in told.items() if sent_s[seq] > min(sent_s.values()) + STARTUP_S] or [*told.values()]
    all_ms = [ms for each in settled for ms in each]
    return {
        "delivery_p50_ms": round(statistics.median(all_ms), 1),
        "delivery_p99_ms": round(percentile(all_ms, 99), 1),
        "delivery_max_ms": round(max(all_ms), 1),
        "deliveries": len(all_ms),
    }


def pages(viewed: object) -> Figures:
    """Return milliseconds of the pages, all together and the slowest by its median, and of submissions."""
    assert isinstance(viewed, dict)
    all_ms = [ms for each in viewed["pages"].values() for ms in each]
    medians = {path: statistics.median(each) for path, each in viewed["pages"].items()}
    slowest = max(medians, key=lambda path: medians[path])
    return {
        "pages_p50_ms": round(statistics.median(all_ms), 1),
        "pages_p95_ms": round(percentile(all_ms, 95), 1),
        "pages_seen": len(all_ms),
        "slowest_page": slowest.partition("job_")[0],
        "slowest_page_p50_ms": round(medians[slowest], 1),
        "submit_p50_ms": round(statistics.median(viewed["submit"]), 1),
        "submit_p95_ms": round(percentile(viewed["submit"], 95), 1),
        "submitted": len(viewed["submit"]),
    }


def memory(resident_mb: Sequence[float]) -> Figures:
    """Return what the API process held at the beginning and at the end, and how it grew in the second half."""
    quarter, half = max(1, len(resident_mb) // 4), len(resident_mb) // 2
    middle = statistics.median(resident_mb[half : half + quarter])
    last = statistics.median(resident_mb[-quarter:])
    return {
        "api_first_mb": round(statistics.median(resident_mb[:quarter]), 1),
        "api_last_mb": round(last, 1),
        "api_growth_second_half_mb": round(last - middle, 1),
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def api_process(served: Served) -> psutil.Process:
    """Return the API process among the service's children."""
    children = psutil.Process(served.process.pid).children(recursive=True)
    return next(one for one in children if any("api_process" in part for part in one.cmdline()))


@contextmanager
def watched_memory(process: psutil.Process) -> Iterator[list[float]]:
    """Yield a list to which the resident set of a process in MB is added once a second."""
    stop, found = threading.Event(), [process.memory_info().rss / 1e6]

    def watch() -> None:
        while not stop.wait(1.0):
            found.append(process.memory_info().rss / 1e6)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
