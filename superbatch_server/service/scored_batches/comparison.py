"""Two sets of scored batches compared over the rows that were scored in both.

Letters: n rows of one side, S rows shared by both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Side:
    """The candidacies of one side: value, whether chosen, and the batch and place that each came from."""

    dataset_index: Indexes
    value: Values
    chosen: npt.NDArray[np.bool_]
    seq: Indexes
    place: Indexes


@dataclass(frozen=True, eq=False)
class Comparison:
    """The shared rows, in order of dataset_index; `entry_*` point into the sides. Ranks count from 1 = highest."""

    dataset_index: Indexes
    a: Values
    b: Values
    rank_a: Values
    rank_b: Values
    entry_a: Indexes
    entry_b: Indexes

    def __len__(self) -> int:
        return len(self.dataset_index)

    @property
    def rise(self) -> Values:
        """Ranks gained from a to b; negative for rows that fell."""
        return self.rank_a - self.rank_b

    @property
    def correlation(self) -> float | None:
        """Spearman's rank correlation; None for fewer than three rows, or where one side has one value only."""
        if len(self) < 3 or self.rank_a.std() == 0 or self.rank_b.std() == 0:
            return None
        return float(np.corrcoef(self.rank_a, self.rank_b)[0, 1])

    def quintile_moves(self) -> npt.NDArray[np.int64]:
        """Return how many rows moved from which fifth of a to which fifth of b, [5, 5]; fifth 0 is the highest."""
        fifth_a, fifth_b = (
            np.minimum(4, ((rank - 0.5) * 5 / len(self)).astype(int)) for rank in (self.rank_a, self.rank_b)
        )
        moves = np.zeros((5, 5), dtype=np.int64)
        np.add.at(moves, (fifth_a, fifth_b), 1)
        return moves


def compare(a: Side, b: Side) -> Comparison:
    """Return the rows that both sides scored; of several candidacies on a side the last one counts."""
    last_a, last_b = _last_of_each(a), _last_of_each(b)
    shared, at_a, at_b = np.intersect1d(a.dataset_index[last_a], b.dataset_index[last_b], return_indices=True)
    entry_a, entry_b = last_a[at_a], last_b[at_b]
    value_a, value_b = a.value[entry_a], b.value[entry_b]
    return Comparison(shared, value_a, value_b, ranks(value_a), ranks(value_b), entry_a, entry_b)


def ranks(values: Values) -> Values:
    """Return ranks from 1 = highest; equal values share the mean of their ranks. [3, 5, 3] -> [2.5, 1, 2.5]."""
    _, group, counts = np.unique(-values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group], dtype=np.float64)


def _last_of_each(side: Side) -> Indexes:
    """Return the entries with a finite value, the last of each row, as positions in the side."""
    finite = np.flatnonzero(np.isfinite(side.value))
    order = finite[np.argsort(side.seq[finite], kind="stable")][::-1]
    _, first = np.unique(side.dataset_index[order], return_index=True)
    return np.asarray(order[first], dtype=np.int64)
