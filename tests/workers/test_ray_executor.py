"""The executor on a real Ray gives the same bytes as the one in this process."""

from __future__ import annotations

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
    world: World, more_worlds: Callable[[str], World], tmp_path: Path
) -> None:
    in_process, on_ray = FakeService(spec_of(num_batches=4)), FakeService(spec_of(num_batches=4))
    attempt(world, in_process)
    other, made = more_worlds("ray"), []

    def make(settings: WorkerSettings, *, embed: EmbedSpec | None, spec: IndexSpec, num_workers: int) -> KeptRay:
        folder = Scratch(str(tmp_path), job="job", token=1).ray_folder
        start_ray(num_cpus=num_logical_cpus(num_workers, scores=True), temp_dir=folder, threads=settings.threads)
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
