"""The trainer recipes and the tar export against a real service: two ranks, every joint batch whole and in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import examples.trainers
from superbatch.conformance.trace import trace_path
from superbatch.log import BatchLog
from tests.e2e.house import running_house
from tests.e2e.jobs import register
from tests.e2e.sample_world import World

pytestmark = [pytest.mark.slow_ray, pytest.mark.long]

RECIPES = Path(next(iter(examples.trainers.__path__)))
NUM_BATCHES, b = 6, 16


@dataclass(frozen=True)
class Served:
    """A complete job of a real service, and its batches by uid."""

    url: str
    job: str
    token: str
    batches: list[list[str]]


@pytest.fixture(scope="module")
def complete_job(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Served]]:
    """Each trainer has a job of its own: a second learner of the same one would be refused."""
    selection = {"criterion": "easy_reference", "b": b, "f": 0.5, "N": 4}
    with running_house(tmp_path_factory.mktemp("service"), world.roots) as house:
        body = register(house, world).curate(learner=None, selection=selection, num_batches=NUM_BATCHES, seed=9)
        token = (house.data_dir / "token").read_text().strip()

        def run() -> Served:
            job = house.post("/v1/jobs", body)["id"]
            house.wait_state(job, "SUCCEEDED")
            with BatchLog(house.url, job, token=token) as log:
                batches = [[uid.hex() for uid in batch.rows.column("uid").to_pylist()] for batch in log]
            return Served(house.url, job, token, batches)

        yield run


@pytest.mark.parametrize("adapter", ["ddp", "iterable", "accelerate", "lightning", "hf_trainer"])
def test_two_ranks_of_a_recipe_train_each_batch_whole(
    adapter: str, complete_job: Callable[[], Served], tmp_path: Path
) -> None:
    served = complete_job()
    trace = tmp_path / "trace"
    trace.mkdir()
    environment = os.environ | {
        "SUPERBATCH_URL": served.url,
        "SUPERBATCH_JOB": served.job,
        "SUPERBATCH_TOKEN": served.token,
        "SUPERBATCH_TRACE": str(trace),
        "SUPERBATCH_STATE": str(tmp_path / "state.json"),
        "SUPERBATCH_NUM_WORKERS": "1",
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(RECIPES / f"train_{adapter}.py")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    ranks = [[json.loads(line) for line in trace_path(trace, rank).read_text().splitlines()] for rank in range(2)]
    assert [[step["seq"] for step in steps] for steps in ranks] == [list(range(NUM_BATCHES))] * 2
    trained = [first["uids"] + second["uids"] for first, second in zip(*ranks, strict=True)]
    assert trained == served.batches
    assert json.loads((tmp_path / "state.json").read_text())["next_seq"] == NUM_BATCHES


def test_exported_tars_hold_the_rows_of_each_ranks_slots(complete_job: Callable[[], Served], tmp_path: Path) -> None:
    served = complete_job()
    (tmp_path / "token").write_text(served.token)
    service = ["--url", served.url, "--token-file", str(tmp_path / "token")]
    options = ["--world-size", "2", "--metadata", *service]
    command = [sys.executable, "-m", "superbatch.cli.main", "export-tars", served.job, str(tmp_path / "tars"), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    exported = [_uids(tar) for tar in sorted((tmp_path / "tars").glob("*.tar"))]
    assert [first + second for first, second in zip(exported[::2], exported[1::2], strict=True)] == served.batches


def _uids(tar: Path) -> list[str]:
    with tarfile.open(tar) as archive:
        records = [archive.extractfile(member) for member in archive if member.name.endswith(".json")]
        return [json.load(record)["uid"] for record in records if record is not None]
