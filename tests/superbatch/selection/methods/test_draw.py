from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superbatch.selection.chunks import chunk_sizes
from superbatch.selection.methods.draw import draw_largest, identity_rank


@given(b=st.integers(1, 5000), data=st.data())
def test_rounds_draw_exactly_b_as_evenly_as_can_be(b: int, data: st.DataObject) -> None:
    num_chunks = data.draw(st.integers(1, b))
    sizes = chunk_sizes(b, num_chunks)
    assert sum(sizes) == b
    assert len(sizes) == num_chunks
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_the_remainder_is_spread_and_not_put_at_an_end() -> None:
    assert chunk_sizes(10, 4) == [2, 3, 2, 3]
    assert chunk_sizes(1638, 16) == [102, 102, 103, 102, 102, 103, 102, 103] * 2


values = st.sampled_from([-np.inf, -1.0, 0.0, 0.0, 1.0, np.inf])


@given(st.lists(st.tuples(values, st.integers(0, 3), st.booleans()), min_size=1, max_size=30), st.data())
def test_draw_equals_a_full_sort(rows: list[tuple[float, int, bool]], data: st.DataObject) -> None:
    value_B = np.array([value for value, _, _ in rows])
    free_B = np.array([free for _, _, free in rows])
    uid = np.zeros((len(rows), 16), np.uint8)
    uid[:, 15] = [last for _, last, _ in rows]
    index_B = np.arange(len(rows))[::-1].copy()
    n = data.draw(st.integers(0, int(free_B.sum())))
    if n == 0:
        return
    rank_B = torch.from_numpy(identity_rank(uid, index_B))
    drawn = draw_largest(torch.from_numpy(value_B), n, rank=rank_B, free=torch.from_numpy(free_B))
    free = [i for i in range(len(rows)) if free_B[i]]
    assert drawn.tolist() == sorted(free, key=lambda i: (-value_B[i], uid[i].tobytes(), index_B[i]))[:n]


@pytest.mark.parametrize("byte", [0, 7, 8, 15])
def test_identity_orders_uids_as_bytes(byte: int) -> None:
    uid = np.full((3, 16), 7, np.uint8)
    uid[:, byte] = [200, 3, 100]
    assert identity_rank(uid, np.zeros(3, np.int64)).tolist() == [2, 0, 1]


def test_the_first_byte_that_differs_decides() -> None:
    uids = np.random.default_rng(0).integers(0, 4, (200, 16), dtype=np.uint8)
    rank = identity_rank(uids, np.arange(200))
    assert np.argsort(rank).tolist() == sorted(range(200), key=lambda i: (uids[i].tobytes(), i))
