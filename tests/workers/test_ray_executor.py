"""The executor on a real Ray gives the same bytes as the one in this process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from superbatch_server.workers.index import IndexSpec
from superbatch_server.workers.index_pass import plan_pass
from superbatch_server.workers.ray_executor import RayExecutor, num_logical_cpus, start_ray
from superbatch_server.workers.scratch import Scratch
from superbatch_server.workers.shard_task import EmbedSpec
from superbatch_server.workers.worker_settings import WorkerSettings

from .fakes import FakeService, attempt, published, spec_of
from .world import World


class KeptRay(RayExecutor):
    """Stays open after an attempt; remembers what it was made with."""

    embed: EmbedSpec | None = None

    def close(self) -> None:
        pass

    def stop(self) -> None:
        super().close()


@pytest.mark.slow_ray
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_bytes_with_one_and_two_shards_per_task(
    world: World, more_worlds: Callable[[str], World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_process, on_ray = FakeService(spec_of(num_batches=4)), FakeService(spec_of(num_batches=4))
    attempt(world, in_process)
    other, made = more_worlds("ray"), []

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "")  # so that what start_ray sets is taken back

    def make(settings: WorkerSettings, *, embed: EmbedSpec | None, spec: IndexSpec, num_workers: int) -> KeptRay:
        folder = Scratch(str(tmp_path), job="job", token=1).ray_folder
        start_ray(
            num_cpus=num_logical_cpus(num_workers, scores=True),
            temp_dir=folder,
            token_file=tmp_path / "ray_token",
            threads=settings.threads,
        )
        made.append(
            KeptRay(
                settings,
                embed=embed,
                spec=spec,
                num_workers=num_workers,
                shards_per_task=1,
                scores=True,
                temp_dir=folder,
            )
        )
        made[0].embed = embed
        return made[0]

    try:
        attempt(other, on_ray, make_executor=make, num_workers=2)
        assert published(other, on_ray) == published(world, in_process)
        assert on_ray.pool == in_process.pool

        executor, digests = made[0], {key: entry.sha256 for key, entry in in_process.cache.items()}
        executor.shards_per_task = 2
        nothing_cached = FakeService(spec_of())
        plan = plan_pass(
            other.shards(),
            nothing_cached,
            root="data",
            fingerprint=other.fingerprint(),
            spec=IndexSpec(),
            embed=executor.embed,
        )
        receipts = list(executor.run_shards(plan.tasks))
        entries = [entry for receipt in receipts for entry in (receipt.index, receipt.embedding) if entry]
        assert {entry.cache_key: entry.sha256 for entry in entries} == digests
    finally:
        for executor in made:
            executor.stop()


LISTENERS = """
import json, os, sys
from pathlib import Path

import psutil

from superbatch_server.workers.ray_executor import start_ray

folder, token_file = Path(sys.argv[1]), Path(sys.argv[2])
start_ray(num_cpus=1, temp_dir=folder, token_file=token_file, threads=1)
import ray

seen = ray.get(ray.remote(lambda: os.environ.get("RAY_AUTH_TOKEN_PATH")).remote())
own = psutil.Process()
hosts = [each.laddr.ip for process in [own, *own.children(recursive=True)]
         for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
modes = token_file.stat().st_mode & 0o777, (Path.home() / ".ray").exists()
ray.shutdown()
print(json.dumps([sorted(set(hosts)), seen, *modes]))
"""


@pytest.mark.slow_ray
def test_a_ray_of_our_own_listens_on_this_machine_only_and_keeps_its_token_to_itself(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sbr", dir="/tmp") as short:  # for Ray's sockets
        token_file = tmp_path / "ray_token"
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "RAY_AUTH_TOKEN": "of somebody else"}
        done = subprocess.run(
            [sys.executable, "-c", LISTENERS, short, str(token_file)],
            env=environment, check=False, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    hosts, seen, mode, home_has_token = json.loads(done.stdout.splitlines()[-1])
    assert set(hosts) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert len(hosts) > 0
    assert (seen, mode, home_has_token) == (str(token_file), 0o600, False)
