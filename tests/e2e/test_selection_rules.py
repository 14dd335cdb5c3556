"""Softmax, a repetition cap and near-copies kept apart, through a real service and a driver that is killed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from superbatch.formats.batch_list import BatchListReader
from superbatch_server.encoders.microbatch import encode_padded
from superbatch_server.encoders.registry import load_encoder
from tests.e2e.house import running_house, wait_for
from tests.e2e.jobs import register
from tests.e2e.sample_world import World

pytestmark = [pytest.mark.long, pytest.mark.slow_ray]

CAP, NEAR, NUM_BATCHES = 5, 0.97, 60
FP16 = 2e-3
"""What a cosine of stored embeddings may be off by."""


def test_published_batches_keep_the_cap_and_hold_no_near_copies_whoever_dies(world: World, tmp_path: Path) -> None:
    limits = {"loss": "softmax", "repetition_cap": CAP, "max_cosine": NEAR}
    with running_house(tmp_path / "service", world.roots) as house:
        registered = register(house, world)
        body = registered.curate(
            learner=None,
            selection={"method": "joint", "criterion": "easy_reference", "b": 16, "f": 0.75, "N": 4, **limits},
            lists={"batches_per_list": 1},
            num_batches=NUM_BATCHES,
        )
        job = house.post("/v1/jobs", body)["id"]
        wait_for(lambda: house.get(f"/v1/jobs/{job}")["next_seq"] >= 5, what="some batches are published")
        wait_for(house.driver, what="the driver runs").kill()
        again = house.post("/v1/jobs", body)["id"]
        assert house.wait_state(job, "SUCCEEDED")["attempt"] == 2, "it was killed while there was work left"
        lists, stats = house.lists(job), house.get(f"/v1/jobs/{job}/stats")
        house.wait_state(again, "SUCCEEDED")
        assert house.lists(again) == lists, "the counts that the second attempt read are those of an undisturbed one"

    batches = [BatchListReader(data).read(0) for _, data in sorted(lists.items())]
    assert len(batches) == NUM_BATCHES
    times = Counter(uid for batch in batches for uid in batch.column("uid").to_pylist())
    assert max(times.values()) == CAP, "the cap holds, and has something to do"
    assert stats["capped"] > 0
    image_of = reference_images(world, batches)
    for batch in batches:
        image_bD = np.stack([image_of[index] for index in batch.column("dataset_index").to_pylist()])
        cosine_bb = image_bD @ image_bD.T
        assert cosine_bb[~np.eye(len(batch), dtype=bool)].max() < NEAR + FP16
        assert batch.column("loss_learner").null_count == len(batch)
        assert min(batch.column("loss_reference").to_pylist()) >= 0, "a softmax loss"


def reference_images(world: World, batches: list[pa.RecordBatch]) -> Mapping[int, np.ndarray]:
    """The reference's image embeddings of every published row, from the bytes that the list names."""
    roles = {"config": "config.json", "tokenizer": "tokenizer.json", "weights": "model.safetensors"}
    files = {role: world.models / "reference" / name for role, name in roles.items()}
    encoder = load_encoder("tiny", files, threads=1)
    rows = {row["dataset_index"]: row for batch in batches for row in batch.to_pylist()}
    tars = [path.read_bytes() for path in sorted(world.shards.glob("*.tar"))]

    def content(row: dict[str, int], tower: str) -> bytes:
        start = row[f"{tower}_offset"]
        return tars[row["shard_id"]][start : start + row[f"{tower}_length"]]

    prepared = [encoder.prepare(content(row, "a"), content(row, "b")) for row in rows.values()]
    return dict(zip(rows, encode_padded(encoder, prepared, micro_batch=64).image_BD, strict=True))
