"""A finished job over real tars behind the fake service, with room for it to stop half-way."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa

from superbatch.formats.canonical import canonical_json
from superbatch.formats.tar import TarSample, iter_samples
from superbatch.formats.uid import uid_of_bytes
from superbatch.log import BatchLog
from superbatch.tiny.weights import save_settings
from tests.encoders.made import a_pair
from tests.superbatch.formats.sample_batches import a_batch, a_shard_table, a_tar
from tests.superbatch.log.fake_service import JOB, TOKEN, FakeService
from tests.superbatch.tiny.made import CONFIG, a_tokenizer

NUM_ROWS = 40
BATCH_SIZE = 8


class TinyJob:
    """Tars below `folder`/pool and a service that has batches drawn from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pool" / "pool").mkdir(parents=True)
        (folder / "models").mkdir()
        tar = folder / "pool" / "pool" / "000000.tar"
        files: list[tuple[str, bytes]] = []
        for row in range(NUM_ROWS):
            picture, caption = a_pair(row)
            files += [(f"{row:03d}.png", picture), (f"{row:03d}.txt", caption)]
        tar.write_bytes(a_tar(files))
        with tar.open("rb") as stream:
            self.samples = list(iter_samples(stream, read=True))
        save_settings(folder / "init", CONFIG, a_tokenizer())
        self.service = FakeService(hooks=[self._answer_places], b=BATCH_SIZE)
        self._generator = np.random.default_rng(5)

    def publish(self, num_batches: int, *, end: bool) -> None:
        """Publish further batches of rows drawn at random."""
        for _ in range(num_batches):
            seq = self.service.next_seq
            self.service.publish(self._batch(seq), generation=seq // 3)
        self.service.end = "complete" if end else None

    def arguments(self, run: str, *further: str) -> list[str]:
        """The command line of a trainer that writes to `folder`/`run`."""
        places = ["--init-model", str(self.folder / "init"), "--out", str(self.folder / run)]
        (self.folder / "token").write_text(TOKEN + "\n")
        return ["--url", "http://host", "--job", JOB, "--token-file", str(self.folder / "token"), *places, *further]

    def open_log(self, **options: object) -> BatchLog:
        """A log over the service in memory, which gives up when no batch is there."""
        client = httpx.Client(transport=httpx.MockTransport(self.service.answer))
        plain = {"token": TOKEN, "client": client, "rng": random.Random(1), "idle_limit_s": 0.01, "wait_s": 0.0}
        make: Callable[..., BatchLog] = BatchLog
        return make("http://host", JOB, **{**plain, **options})

    def _batch(self, seq: int) -> pa.Table:
        chosen = [self.samples[row] for row in self._generator.choice(NUM_ROWS, BATCH_SIZE, replace=False)]
        return a_batch(
            seq,
            BATCH_SIZE,
            uid=[uid_of_bytes(*_towers(sample)) for sample in chosen],
            dataset_index=[sample.sample_index for sample in chosen],
            sample_index=[sample.sample_index for sample in chosen],
            key=[sample.key for sample in chosen],
            a_offset=[sample.members[0].offset for sample in chosen],
            a_length=[sample.members[0].length for sample in chosen],
            b_offset=[sample.members[1].offset for sample in chosen],
            b_length=[sample.members[1].length for sample in chosen],
        )

    def _answer_places(self, request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/shard-table"):
            return httpx.Response(200, content=canonical_json(a_shard_table(NUM_ROWS).to_json()))
        if request.url.path == "/v1/roots":
            return httpx.Response(200, json={"roots": [{"name": "pool", "url": (self.folder / "pool").as_uri()}]})
        return None


def _towers(sample: TarSample) -> tuple[bytes, bytes]:
    a, b = sample.data["png"], sample.data["txt"]
    assert a is not None
    assert b is not None
    return a, b
