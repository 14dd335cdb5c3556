"""The walk: in which order a job looks at the rows of its dataset.

A block is `block_rows` consecutive rows of one shard; the last of a shard may be short. Pass p visits every block of
the whole dataset once, in an order that depends on (seed, p) alone, and pass p + 1 follows without a break. Rows that
are not eligible are stepped over. A row whose tower-a content is in the super-batch already is put off: it comes first
in the next one. So two captions of one picture never meet, and no row is lost for it.

Letters: M blocks of the dataset, B candidates of one super-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from superbatch.formats.errors import SuperbatchError
from superbatch_server.schemas.attempts import WalkPosition

CONTENT_BYTES = 32
_ORDER_OF_BLOCKS = 1  # spawn key of the walk; other draws of a job take other first keys


class SuperBatchExceedsPool(SuperbatchError):
    """A super-batch needs more candidates of distinct content than the whole dataset has."""

    code: ClassVar[str] = "super_batch_exceeds_pool"

    def __init__(self, B: int, distinct: int) -> None:
        super().__init__(B, distinct)
        self.B, self.distinct = B, distinct

    def __str__(self) -> str:
        return (
            f"B must not exceed the distinct eligible contents of tower a; got B = {self.B}, "
            f"distinct = {self.distinct}. Lower b or f so that B <= {self.distinct}, or curate a larger dataset."
        )


@dataclass(frozen=True)
class WalkShard:
    """Where the rows of one shard stand in the dataset."""

    shard_id: int
    start_index: int
    rows: int


@dataclass(frozen=True, eq=False)
class WalkRows:
    """What the walk must know of the rows of one shard, by position in the shard."""

    eligible: npt.NDArray[np.bool_]
    content: bytes
    """sha256 of tower a, CONTENT_BYTES per row."""
    excluded: npt.NDArray[np.bool_] | None = None
    """Rows that would be eligible, but that the job leaves out; None for none."""


class WalkPool(Protocol):
    """Law: the answer for a shard never changes; the call may block until the index pass has come to it.

    Pools of one dataset differ in what they exclude alone.
    """

    def rows_of(self, shard_id: int) -> WalkRows:
        """Return the rows of one shard."""
        ...


@dataclass(frozen=True, eq=False)
class Draw:
    """One super-batch's candidates by dataset_index, in order; where the walk goes on; what it stepped over.

    excluded: dataset_index of rows that were left out on the way, eligible ones only.
    """

    index_B: npt.NDArray[np.int64]
    next_position: WalkPosition
    excluded: tuple[int, ...] = ()


@dataclass(eq=False)
class _SuperBatch:
    """A super-batch while it fills."""

    B: int
    drawn: list[int] = field(default_factory=list)
    put_off: list[int] = field(default_factory=list)
    contents: set[bytes] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)
    excluded: list[int] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return len(self.drawn) == self.B

    def offer(self, dataset_index: int, content: bytes) -> None:
        """Take an eligible row, or put it off.

        A row that still waits from the pass before is not put off a second time, so what waits never exceeds the
        dataset, even where one picture fills more than 1/B of it.
        """
        if content not in self.contents:
            self.contents.add(content)
            self.drawn.append(dataset_index)
        elif dataset_index not in self.waiting:
            self.put_off_unseen(dataset_index)

    def put_off_unseen(self, dataset_index: int) -> None:
        self.put_off.append(dataset_index)
        self.waiting.add(dataset_index)


class Walk:
    """The walk over one dataset: a pure function of shards, block_rows and seed."""

    def __init__(self, shards: Sequence[WalkShard], *, block_rows: int, seed: int) -> None:
        self._shards = tuple(shards)
        self._starts = np.array([shard.start_index for shard in shards], dtype=np.int64)
        blocks = np.array([-(-shard.rows // block_rows) for shard in shards], dtype=np.int64)
        self._block_stops = np.cumsum(blocks)
        self._block_rows = block_rows
        self._seed = seed

    @property
    def num_blocks(self) -> int:
        """M."""
        return int(self._block_stops[-1]) if len(self._block_stops) else 0

    def draw(self, position: WalkPosition, B: int, pool: WalkPool) -> Draw:
        """Return the B candidates that follow `position`, in order, and the position after them.

        A row that was put off and has been excluded since is left out like any other.

        Args:
            position: as an earlier draw gave it, or the default one.
            B: at least 1.
            pool: eligibility and content per shard; asked only for shards that the walk comes to.
        Raises:
            SuperBatchExceedsPool: after a whole pass within this draw, so that all contents have been seen.
        Cost: O(B + rows stepped over); one shard's rows at a time.
        """
        batch = _SuperBatch(B)
        self._take_put_off(position, batch, pool)
        for pass_index, block, start, shard in self._blocks_from(position):
            offset = position.offset if (pass_index, block) == (position.pass_index, position.block) else 0
            if batch.is_full:
                return _result(batch, pass_index, block, offset)
            if pass_index >= position.pass_index + 2:
                raise SuperBatchExceedsPool(B, len(batch.contents))
            stop = min(start + self._block_rows, shard.rows)
            after = self._take_block(shard, start + offset, stop, batch, pool)
            if batch.is_full and after < stop:
                return _result(batch, pass_index, block, after - start)
        raise SuperBatchExceedsPool(B, 0)  # a dataset without rows

    def shards_in_order(self, position: WalkPosition) -> list[int]:
        """Return every shard_id once, in the order in which the walk from `position` first needs it."""
        order: dict[int, None] = {self._shard_of(index).shard_id: None for index in position.put_off}
        first = pass_order(self._seed, position.pass_index, self.num_blocks)[position.block :]
        second = pass_order(self._seed, position.pass_index + 1, self.num_blocks)
        used = np.searchsorted(self._block_stops, np.concatenate([first, second]), side="right")
        found, first_use = np.unique(used, return_index=True)
        order.update((self._shards[at].shard_id, None) for at in found[np.argsort(first_use)])
        order.update((shard.shard_id, None) for shard in self._shards)  # those without rows
        return list(order)

    def _take_put_off(self, position: WalkPosition, batch: _SuperBatch, pool: WalkPool) -> None:
        for index in position.put_off:
            if batch.is_full:
                batch.put_off_unseen(index)
                continue
            shard = self._shard_of(index)
            rows, row = pool.rows_of(shard.shard_id), index - shard.start_index
            if rows.eligible[row]:
                batch.offer(index, _content(rows, row))
            else:
                batch.excluded.append(index)

    def _take_block(self, shard: WalkShard, start: int, stop: int, batch: _SuperBatch, pool: WalkPool) -> int:
        """Offer rows [start, stop) of the shard until the super-batch is full; return the first row not walked."""
        rows = pool.rows_of(shard.shard_id)
        after = stop
        for row in (np.flatnonzero(rows.eligible[start:stop]) + start).tolist():
            if batch.is_full:
                after = int(row)
                break
            batch.offer(shard.start_index + row, _content(rows, row))
        if rows.excluded is not None:
            batch.excluded += (np.flatnonzero(rows.excluded[start:after]) + shard.start_index + start).tolist()
        return after

    def _blocks_from(self, position: WalkPosition) -> Iterator[tuple[int, int, int, WalkShard]]:
        """Yield (pass, place in the pass, first row in the shard, shard) without end, unless there are no blocks."""
        pass_index, first = position.pass_index, position.block
        while self.num_blocks:
            order = pass_order(self._seed, pass_index, self.num_blocks)
            for place in range(first, self.num_blocks):
                at = int(np.searchsorted(self._block_stops, order[place], side="right"))
                before = int(self._block_stops[at - 1]) if at else 0
                yield pass_index, place, (int(order[place]) - before) * self._block_rows, self._shards[at]
            pass_index, first = pass_index + 1, 0

    def _shard_of(self, dataset_index: int) -> WalkShard:
        return self._shards[int(np.searchsorted(self._starts, dataset_index, side="right")) - 1]


@lru_cache(maxsize=4)
def pass_order(seed: int, pass_index: int, num_blocks: int) -> npt.NDArray[np.int64]:
    """Return the order of the blocks 0 .. M-1 in one pass: block result[i] is the i-th.

    The blocks are sorted by raw 64-bit words of a generator seeded for the pass. Words of a bit generator are stable
    between versions of numpy, which its `permutation` is not. 10^9 rows in blocks of 256 are 4 million blocks: 31 MB
    and under a second per pass, so a permutation computed place by place is not worth its complexity.
    """
    words_M = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_ORDER_OF_BLOCKS, pass_index))).random_raw(
        num_blocks
    )
    order_M = np.argsort(words_M, kind="stable").astype(np.int64)
    order_M.setflags(write=False)
    return order_M


def _content(rows: WalkRows, row: int) -> bytes:
    return rows.content[row * CONTENT_BYTES : (row + 1) * CONTENT_BYTES]


def _result(batch: _SuperBatch, pass_index: int, block: int, offset: int) -> Draw:
    after = WalkPosition(pass_index=pass_index, block=block, offset=offset, put_off=tuple(batch.put_off))
    return Draw(np.array(batch.drawn, dtype=np.int64), after, tuple(batch.excluded))
