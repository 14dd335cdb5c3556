"""The walk: what is drawn, once per pass, in which order, and that it can go on from anywhere."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from itertools import count

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch_server.schemas.attempts import WalkPosition
from superbatch_server.workers.walk import SuperBatchExceedsPool, Walk, WalkPool, WalkRows, WalkShard, pass_order

START = WalkPosition()


class Pool:
    """Eligibility and content of every row, in memory; remembers which shards were asked for."""

    def __init__(self, shards: list[list[tuple[bool, int]]]) -> None:
        self.rows = [
            WalkRows(
                eligible=np.array([ok for ok, _ in shard], dtype=bool),
                content=b"".join(sha256(bytes([content])).digest() for _, content in shard),
            )
            for shard in shards
        ]
        self.asked: list[int] = []

    def rows_of(self, shard_id: int) -> WalkRows:
        if shard_id not in self.asked:
            self.asked.append(shard_id)
        return self.rows[shard_id]


def walk_over(shards: list[list[tuple[bool, int]]], *, block_rows: int, seed: int = 0) -> Walk:
    starts = np.cumsum([0] + [len(shard) for shard in shards])
    return Walk(
        [WalkShard(shard_id=i, start_index=int(starts[i]), rows=len(shard)) for i, shard in enumerate(shards)],
        block_rows=block_rows,
        seed=seed,
    )


def slow_draws(
    shards: list[list[tuple[bool, int]]], *, block_rows: int, seed: int, sizes: list[int]
) -> list[list[int]]:
    """The rule of design.md 3.7 in words: one endless list of eligible rows, and a list of those put off."""
    blocks, start = [], 0
    for shard in shards:
        rows = [(start + i, *row) for i, row in enumerate(shard)]
        blocks += [rows[at : at + block_rows] for at in range(0, len(rows), block_rows)]
        start += len(shard)
    stream = [
        (index, content)
        for pass_index in range(40)
        for at in pass_order(seed, pass_index, len(blocks))
        for index, ok, content in blocks[at]
        if ok
    ]
    draws, put_off, at = [], [], 0
    for B in sizes:
        drawn: list[tuple[int, int]] = []
        waiting, put_off = put_off, []
        for row in waiting:
            fits = len(drawn) < B and row[1] not in [content for _, content in drawn]
            (drawn if fits else put_off).append(row)
        while len(drawn) < B:
            row, at = stream[at], at + 1
            if row[1] not in [content for _, content in drawn]:
                drawn.append(row)
            elif row not in put_off:
                put_off.append(row)
        draws.append([index for index, _ in drawn])
    return draws


def step(walk: Walk, position: WalkPosition, B: int, pool: WalkPool) -> tuple[npt.NDArray[np.int64], WalkPosition]:
    """Draw one super-batch; return its rows and where the walk goes on."""
    found = walk.draw(position, B, pool)
    assert found.excluded == ()
    return found.index_B, found.next_position


SHARDS = st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=14), min_size=1, max_size=5)


def distinct(shards: list[list[tuple[bool, int]]]) -> int:
    return len({content for shard in shards for ok, content in shard if ok})


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[tuple[bool, int]]], int, int, list[int]]:
    shards = draw(SHARDS.filter(distinct))
    largest = distinct(shards)
    sizes = draw(st.lists(st.integers(1, largest), min_size=1, max_size=8))
    return shards, draw(st.integers(1, 6)), draw(st.integers(0, 2**40)), sizes


@given(cases())
def test_draws_equal_the_rule_in_words(case: tuple[list[list[tuple[bool, int]]], int, int, list[int]]) -> None:
    shards, block_rows, seed, sizes = case
    walk, position, draws = walk_over(shards, block_rows=block_rows, seed=seed), START, []
    for B in sizes:
        drawn, position = step(walk, position, B, Pool(shards))
        draws.append(drawn.tolist())
    assert draws == slow_draws(shards, block_rows=block_rows, seed=seed, sizes=sizes)


@given(cases())
def test_no_content_and_no_row_stands_twice_in_a_super_batch(
    case: tuple[list[list[tuple[bool, int]]], int, int, list[int]],
) -> None:
    shards, block_rows, seed, sizes = case
    rows = [row for shard in shards for row in shard]
    walk, position = walk_over(shards, block_rows=block_rows, seed=seed), START
    for B in sizes:
        drawn, position = step(walk, position, B, Pool(shards))
        assert len({rows[i][1] for i in drawn}) == len(drawn) == B
        assert all(rows[i][0] for i in drawn)


@given(cases(), st.data())
def test_the_walk_goes_on_from_any_written_position(
    case: tuple[list[list[tuple[bool, int]]], int, int, list[int]], data: st.DataObject
) -> None:
    shards, block_rows, seed, sizes = case
    walk, position, positions, draws = walk_over(shards, block_rows=block_rows, seed=seed), START, [START], []
    for B in sizes:
        drawn, position = step(walk, position, B, Pool(shards))
        draws.append(drawn.tolist())
        positions.append(position)
    k = data.draw(st.integers(0, len(sizes)))
    fresh = walk_over(shards, block_rows=block_rows, seed=seed)
    position = WalkPosition.model_validate_json(positions[k].model_dump_json())
    for B, expected, after in zip(sizes[k:], draws[k:], positions[k + 1 :], strict=True):
        drawn, position = step(fresh, position, B, Pool(shards))
        assert (drawn.tolist(), position) == (expected, after)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 99), st.integers(1, 7))
def test_each_row_of_distinct_contents_is_drawn_once_per_pass(
    rows_per_shard: list[int], block_rows: int, seed: int, B: int
) -> None:
    contents = iter(range(100))
    shards = [[(True, next(contents)) for _ in range(rows)] for rows in rows_per_shard]
    num_rows = sum(rows_per_shard)
    if num_rows < B:
        return
    walk, position, counts, num_draws = walk_over(shards, block_rows=block_rows, seed=seed), START, Counter[int](), 0
    while position.pass_index < 3:
        drawn, position = step(walk, position, B, Pool(shards))
        counts.update(drawn.tolist())
        num_draws += 1
        walked = 3 * num_rows if position.pass_index == 3 else None
        if walked and position.block == position.offset == 0:
            waiting = Counter(position.put_off)
            assert all(counts[i] + waiting[i] == 3 for i in range(num_rows))
    assert all(counts[i] >= 2 for i in range(num_rows))
    assert all(counts[i] <= 4 for i in range(num_rows))


def test_the_two_captions_of_a_picture_come_in_neighbouring_super_batches() -> None:
    shards = [[(True, 1), (True, 1), (True, 2), (True, 3), (True, 4)]]
    walk = walk_over(shards, block_rows=5)
    first, position = step(walk, START, 2, Pool(shards))
    assert (first.tolist(), position.put_off) == ([0, 2], (1,))
    second, position = step(walk, position, 2, Pool(shards))
    assert (second.tolist(), position.put_off) == ([1, 3], ())


def test_rows_put_off_may_fill_a_super_batch_without_moving_the_walk() -> None:
    shards = [[(True, 1), (True, 1), (True, 1), (True, 2), (True, 3)]]
    walk = walk_over(shards, block_rows=5)
    _, position = step(walk, START, 2, Pool(shards))
    assert position == WalkPosition(pass_index=0, block=0, offset=4, put_off=(1, 2))
    drawn, after = step(walk, position, 1, Pool(shards))
    assert drawn.tolist() == [1]
    assert after == WalkPosition(pass_index=0, block=0, offset=4, put_off=(2,))


def test_a_row_that_still_waits_is_not_put_off_again_so_what_waits_never_exceeds_the_dataset() -> None:
    shards = [[(True, 1)] * 8 + [(True, 2)]]  # one picture on 8 of 9 rows: each super-batch of 2 holds one of them
    walk, position = walk_over(shards, block_rows=9), START
    for _ in range(40):
        drawn, position = step(walk, position, 2, Pool(shards))
        assert len(drawn) == 2
        assert len(set(position.put_off)) == len(position.put_off) <= 8
    assert position.pass_index > 30


@pytest.mark.parametrize("block_rows", [1, 2, 5])
def test_the_largest_possible_super_batches_never_fail_wherever_they_begin(block_rows: int) -> None:
    shards = [[(True, content) for content in (1, 2, 1, 3)], [(False, 9), (True, 4), (True, 4)], [(True, 5)]]
    walk, position = walk_over(shards, block_rows=block_rows), START
    for _ in range(50):
        drawn, position = step(walk, position, 5, Pool(shards))
        assert len(drawn) == 5
        with pytest.raises(SuperBatchExceedsPool, match=r"B = 6, distinct = 5"):
            walk.draw(position, 6, Pool(shards))


def excluding(shards: list[list[tuple[bool, int]]], excluded: set[int]) -> Pool:
    """The pool without the rows of `excluded`, by dataset_index."""
    pool, start = Pool(shards), 0
    for i, rows in enumerate(pool.rows):
        named = np.array([start + row in excluded for row in range(len(rows.eligible))], dtype=bool)
        pool.rows[i] = WalkRows(rows.eligible & ~named, rows.content, rows.eligible & named)
        start += len(named)
    return pool


@given(cases(), st.data())
def test_excluded_rows_are_stepped_over_as_if_they_were_not_eligible_and_counted_once_per_pass(
    case: tuple[list[list[tuple[bool, int]]], int, int, list[int]], data: st.DataObject
) -> None:
    shards, block_rows, seed, sizes = case
    rows = [row for shard in shards for row in shard]
    excluded = data.draw(st.sets(st.integers(0, len(rows) - 1)))
    number = count()
    without = [[(next(number) not in excluded and ok, content) for ok, content in shard] for shard in shards]
    walk, position, plain, stepped_over = walk_over(shards, block_rows=block_rows, seed=seed), START, START, Counter()
    for B in [size for size in sizes if size <= distinct(without)]:
        found = walk.draw(position, B, excluding(shards, excluded))
        expected, plain = step(walk, plain, B, Pool(without))
        position = found.next_position
        assert (found.index_B.tolist(), position) == (expected.tolist(), plain)
        stepped_over.update(found.excluded)
    assert set(stepped_over) <= {index for index in excluded if rows[index][0]}
    assert all(times <= position.pass_index + 1 for times in stepped_over.values())


def test_a_row_is_left_out_once_where_the_walk_passes_it() -> None:
    shards = [[(True, content) for content in range(6)]]
    walk, position, left_out = walk_over(shards, block_rows=6), START, []
    for _ in range(3):
        found = walk.draw(position, 2 if position.offset < 5 else 1, excluding(shards, {0, 4}))
        left_out.append((found.index_B.tolist(), found.excluded))
        position = found.next_position
    assert left_out == [([1, 2], (0,)), ([3, 5], (4,)), ([1, 2], (0,))]


def test_a_row_that_was_put_off_and_then_excluded_does_not_come() -> None:
    shards = [[(True, 1), (True, 1), (True, 2), (True, 3)]]
    walk = walk_over(shards, block_rows=4)
    first = walk.draw(START, 2, Pool(shards))
    assert (first.index_B.tolist(), first.next_position.put_off) == ([0, 2], (1,))
    second = walk.draw(first.next_position, 1, excluding(shards, {1}))
    assert (second.index_B.tolist(), second.excluded) == ([3], (1,))


def test_a_super_batch_above_the_distinct_contents_names_both_numbers() -> None:
    shards = [[(True, 1), (True, 1), (False, 2)], [(True, 3)]]
    with pytest.raises(SuperBatchExceedsPool, match=r"B = 3, distinct = 2") as raised:
        walk_over(shards, block_rows=2).draw(START, 3, Pool(shards))
    assert raised.value.code == "super_batch_exceeds_pool"
    with pytest.raises(SuperBatchExceedsPool, match=r"B = 1, distinct = 0"):
        walk_over([[]], block_rows=2).draw(START, 1, Pool([[]]))


@given(cases())
def test_shards_are_asked_for_in_the_announced_order(
    case: tuple[list[list[tuple[bool, int]]], int, int, list[int]],
) -> None:
    shards, block_rows, seed, sizes = case
    walk, position, pool = walk_over(shards, block_rows=block_rows, seed=seed), START, Pool(shards)
    announced = walk.shards_in_order(START)
    assert sorted(announced) == list(range(len(shards)))
    for B in sizes:
        _, position = step(walk, position, B, pool)
    assert announced[: len(pool.asked)] == pool.asked
    assert sorted(walk.shards_in_order(position)) == list(range(len(shards)))


def test_passes_and_seeds_have_orders_of_their_own_and_these_never_change() -> None:
    assert pass_order(7, 0, 6).tolist() == pass_order(7, 0, 6).tolist()
    assert len({tuple(pass_order(seed, p, 50)) for seed in range(4) for p in range(4)}) == 16
    assert sorted(pass_order(3, 1, 50)) == list(range(50))
    assert pass_order(0, 0, 8).tolist() == [6, 4, 1, 3, 2, 7, 5, 0]
