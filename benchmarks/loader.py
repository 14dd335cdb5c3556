"""How fast a trainer is fed by the torch adapter, against webdataset's stock reader on the same tars.

    python benchmarks/loader.py [--quick | --tiny]

Both hand out full batches of b examples from the same number of DataLoader workers, with the same decoding and
collation; a turn is one pass with its start of workers, all take turns in this process; medians. The tars hold JPEG
pictures of 256 x 256 (about 20 KB) with captions, and lie in the page cache.

- webdataset reads its tars from front to end, each row once, b rows after each other as a batch.
- `curated`: batches of b rows drawn from super-batches of B = 5b rows (f = 0.8) in blocks of `block_rows` neighbours,
  in slot order, through CuratedBatchSampler and ExampleDataset. `curated_f0`: the same with B = b.
- `fraction_of_webdataset`: examples/s of `curated` over those of webdataset, pictures decoded. `_f0`: of `curated_f0`.
- `fraction_of_webdataset_stored`: the same with the stored bytes handed out as they are: what reading alone costs.
- `speedup_of_side_by_side`: reading `curated` where each read waits for 20 ms, as in an object store, by 16 threads
  against one.
- `bytes_read_per_used`: bytes read over bytes of the examples handed out, of `curated` from local tars. `_remote`: as
  joined for an object store; `_f0`: of `curated_f0`. `num_reads_per_batch`: joined reads, local and remote.

The last line is `BENCH {json}`.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import webdataset
from measured.bench import Figures, bench_parser, machine, print_figures
from measured.pairs_on_disk import Pairs, write_pairs
from measured.turns import time_in_turn
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from superbatch.log import LogBatch
from superbatch.reading import Example, ExampleReader
from superbatch.reading.fetcher import LOCAL_GAP_BYTES, REMOTE_GAP_BYTES
from superbatch.reading.local_files import LocalFiles
from superbatch.reading.ranges import ByteRange
from superbatch.reading.sources import Answer
from superbatch.torch import CuratedBatchSampler, CuratedCollate, ExampleDataset, Share, Workers
from superbatch.torch.window import BatchWindow

Sample = dict[str, object]
Decode = Callable[[bytes, bytes], Sample]


@dataclass(frozen=True)
class Size:
    """One configuration; the rows of each worker's shards are a multiple of b, so that webdataset drops none."""

    num_shards: int
    rows_per_shard: int
    side: int
    b: int
    block_rows: int
    num_workers: int
    num_runs: int

    @property
    def num_batches(self) -> int:
        """Batches of one pass over all rows."""
        return self.num_shards * self.rows_per_shard // self.b


SIZES = {
    "full": Size(16, 1024, 256, b=512, block_rows=256, num_workers=2, num_runs=7),
    "quick": Size(4, 1024, 256, b=256, block_rows=128, num_workers=2, num_runs=3),
    "tiny": Size(2, 160, 32, b=32, block_rows=16, num_workers=2, num_runs=1),
}


DISTANCE_S = 0.02


class CountingFiles(LocalFiles):
    """Local files that count reads."""

    num_reads = 0

    def read_ranges(self, key: str, ranges: Sequence[ByteRange]) -> Answer:
        """Read and count."""
        self.num_reads += len(ranges)
        return super().read_ranges(key, ranges)


class DistantFiles(LocalFiles):
    """Local files behind a wait, as if they lay in an object store."""

    is_remote = True

    def read_ranges(self, key: str, ranges: Sequence[ByteRange]) -> Answer:
        """Wait, then read."""
        time.sleep(DISTANCE_S)
        return super().read_ranges(key, ranges)


def main() -> None:
    """Measure what the arguments ask for and print it."""
    description = "Examples per second of the torch adapter and of webdataset."
    mode = bench_parser(description, quick="fewer rows and runs, under 60 s on idle cores").parse_args().mode
    size = SIZES[mode]
    torch.set_num_threads(1)
    figures: Figures = {"mode": mode, **asdict(size), "B": 5 * size.b, **machine("torch", "webdataset")}
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_pairs(
            Path(folder), num_shards=size.num_shards, rows_per_shard=size.rows_per_shard, side=size.side
        )
        figures |= measure_speed(pairs, size, decode=decoded, suffix="")
        figures |= measure_speed(pairs, size, decode=stored, suffix="_stored")
        figures |= measure_bytes(pairs, size)
        figures |= measure_side_by_side(pairs, size)
    print_figures(figures)


def decoded(picture: bytes, caption: bytes) -> Sample:
    """Return the pixels and the caption."""
    pixels_HWC = np.array(Image.open(io.BytesIO(picture)).convert("RGB"))
    return {"pixels": torch.from_numpy(pixels_HWC), "caption": caption.decode()}


def stored(picture: bytes, caption: bytes) -> Sample:
    """Return both as they are stored."""
    return {"picture": picture, "caption": caption}


def measure_speed(pairs: Pairs, size: Size, *, decode: Decode, suffix: str) -> Figures:
    """Return examples/s of all ways, and the fractions of webdataset."""
    curated = {"curated": made_batches(pairs, size, B=5 * size.b), "curated_f0": made_batches(pairs, size, B=size.b)}
    actions: dict[str, Callable[[], object]] = {"webdataset": lambda: drain(stock_loader(pairs, size, decode), size)}
    for name, batches in curated.items():
        actions[name] = lambda batches=batches: drain(curated_loader(pairs, size, batches, decode), size)
    taken = time_in_turn(actions, num_runs=size.num_runs)
    num_examples = size.num_batches * size.b
    fraction = {name: round(taken["webdataset"].wall_s / taken[name].wall_s, 3) for name in curated}
    return {
        **{f"{name}{suffix}_examples_per_s": round(num_examples / taken[name].wall_s, 1) for name in taken},
        f"fraction_of_webdataset{suffix}": fraction["curated"],
        f"fraction_of_webdataset{suffix}_f0": fraction["curated_f0"],
    }


def measure_bytes(pairs: Pairs, size: Size) -> Figures:
    """Return bytes read per byte used and the number of reads, in this process."""
    figures: Figures = {}
    for suffix, B, gap_bytes in (
        ("", 5 * size.b, LOCAL_GAP_BYTES),
        ("_remote", 5 * size.b, REMOTE_GAP_BYTES),
        ("_f0", size.b, LOCAL_GAP_BYTES),
    ):
        source = CountingFiles(pairs.folder)
        with closing(ExampleReader({"pairs": source}, gap_bytes=gap_bytes)) as reader:
            for batch in made_batches(pairs, size, B=B):
                reader.read_rows(batch.rows, pairs.table)
            figures[f"bytes_read_per_used{suffix}"] = round(reader.bytes_read / reader.bytes_used, 3)
        figures[f"num_reads_per_batch{suffix}"] = round(source.num_reads / size.num_batches, 1)
    return figures


def measure_side_by_side(pairs: Pairs, size: Size) -> Figures:
    """Return how many times as fast a distant source is read by many threads as by one."""
    batches = made_batches(pairs, size, B=5 * size.b)[:4]

    def read(num_threads: int) -> None:
        reader = ExampleReader({"pairs": DistantFiles(pairs.folder)}, num_threads=num_threads)
        with closing(reader):
            for batch in batches:
                reader.read_rows(batch.rows, pairs.table)

    taken = time_in_turn({"many": lambda: read(16), "one": lambda: read(1)}, num_runs=min(3, size.num_runs))
    return {"speedup_of_side_by_side": round(taken["one"].wall_s / taken["many"].wall_s, 2)}


def made_batches(pairs: Pairs, size: Size, *, B: int) -> list[LogBatch]:
    """Return the batches of one pass."""
    return list(pairs.batches(size.num_batches, b=size.b, B=B, block_rows=size.block_rows, seed=B))


def stock_loader(pairs: Pairs, size: Size, decode: Decode) -> Iterable[object]:
    """Return webdataset's reader of all tars."""
    dataset = (
        webdataset.WebDataset(pairs.paths, shardshuffle=False)
        .map(lambda sample: decode(sample["jpg"], sample["txt"]))
        .batched(size.b, collation_fn=default_collate, partial=False)
    )
    return DataLoader(dataset, batch_size=None, num_workers=size.num_workers)


def curated_loader(pairs: Pairs, size: Size, batches: list[LogBatch], decode: Decode) -> Iterable[object]:
    """Return the torch adapter on batches that are there."""

    def transform(example: Example) -> Sample:
        return decode(example.a, example.b)

    share = Share()
    dataset = ExampleDataset(ExampleReader({"pairs": pairs.folder}), pairs.table, transform, share=share)
    sampler = CuratedBatchSampler(BatchWindow(iter(batches)), share=share, b=size.b)
    return Workers(num_workers=size.num_workers).map_loader(dataset, sampler, CuratedCollate())


def drain(loader: Iterable[object], size: Size) -> None:
    """Take all batches; each must be full."""
    sizes = [num_examples(batch) for batch in loader]
    assert sizes == [size.b] * size.num_batches, sizes


def num_examples(batch: object) -> int:
    """Return how many captions a batch holds."""
    assert isinstance(batch, dict)
    return len(batch["caption"])


if __name__ == "__main__":
    main()
