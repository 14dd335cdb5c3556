"""Picture-caption pairs in tars, and batches of them as a job would publish."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image

from superbatch.formats.batch_list import batch_rows
from superbatch.formats.shards import ShardEntry, ShardTable
from superbatch.formats.tar import iter_samples
from superbatch.log import LogBatch

NUM_PICTURES = 128
"""Pictures that differ; the rows repeat them, because only their size and their decoding are measured."""


@dataclass(frozen=True)
class Pairs:
    """Tars in a folder: their shard table, and the place of every row as columns of a batch list."""

    folder: Path
    table: ShardTable
    places: list[dict[str, int]]

    @property
    def paths(self) -> list[str]:
        """The tars, in order."""
        return [str(self.folder / shard.key) for shard in self.table.shards]

    def batches(self, num_batches: int, *, b: int, B: int, block_rows: int, seed: int) -> Iterator[LogBatch]:
        """Yield batches of b rows, drawn from super-batches of B rows in blocks of `block_rows` neighbours."""
        generator = default_rng(np.random.SeedSequence(seed))
        for seq in range(num_batches):
            chosen = _chosen(generator, len(self.places), b=b, B=B, block_rows=block_rows)
            columns = {name: [self.places[index][name] for index in chosen] for name in self.places[0]}
            head = {"batch_seq": [seq] * b, "slot": list(range(b)), "variant": [0] * b}
            uids = [index.to_bytes(16, "big") for index in chosen]
            rows = batch_rows({**head, "uid": uids, "dataset_index": chosen, **columns}).to_batches()[0]
            yield LogBatch(seq, rows, 0, None, None, 1 - b / B, B, None, b"")


def write_pairs(folder: Path, *, num_shards: int, rows_per_shard: int, side: int) -> Pairs:
    """Write tars of JPEG pictures of side x side pixels, with a caption each."""
    pictures = [_picture(number, side) for number in range(NUM_PICTURES)]
    places, entries = [], []
    for shard_id in range(num_shards):
        path = folder / f"{shard_id:06d}.tar"
        _write_tar(path, shard_id, rows_per_shard, pictures)
        places += _places(path, shard_id)
        start, fingerprint = shard_id * rows_per_shard, "00" * 32
        entries.append(
            ShardEntry(shard_id, "pairs", path.name, "webdataset", rows_per_shard, start, "made", fingerprint)
        )
    return Pairs(folder, ShardTable("00" * 32, "image", "text", "txt", tuple(entries)), places)


def _chosen(generator: Generator, num_rows: int, *, b: int, B: int, block_rows: int) -> list[int]:
    """Return b of the rows of B / block_rows random blocks, in random order."""
    blocks = generator.choice(num_rows // block_rows, B // block_rows, replace=False)
    rows = (blocks[:, None] * block_rows + np.arange(block_rows)).ravel()
    return [int(row) for row in generator.choice(rows, b, replace=False)]


def _picture(number: int, side: int) -> bytes:
    """Return a JPEG with broad shapes and some grain: about 20 KB at 256 x 256, as photographs are."""
    generator = default_rng(np.random.SeedSequence(0, spawn_key=(number,)))
    broad = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    shapes = np.asarray(broad.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.integers(-24, 25, (side, side, 1), dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray(np.clip(shapes + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def _write_tar(path: Path, shard_id: int, num_rows: int, pictures: list[bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in range(num_rows):
            caption = f"picture {row} of shard {shard_id}, with some words about what it shows".encode()
            for suffix, content in (("jpg", pictures[(shard_id + row) % len(pictures)]), ("txt", caption)):
                member = tarfile.TarInfo(f"{row:06d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _places(path: Path, shard_id: int) -> list[dict[str, int]]:
    with path.open("rb") as stream:
        return [
            {
                "shard_id": shard_id,
                "sample_index": sample.sample_index,
                "a_offset": sample.members[0].offset,
                "a_length": sample.members[0].length,
                "b_offset": sample.members[1].offset,
                "b_length": sample.members[1].length,
            }
            for sample in iter_samples(stream)
        ]
