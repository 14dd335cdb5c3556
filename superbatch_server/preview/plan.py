"""Which selections the curves are made of.

Letters: B candidates, b chosen, N chunks, f filter ratio, M rows of the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from superbatch.formats.errors import InvalidInput
from superbatch.selection import SelectionSpec
from superbatch.selection.criteria import Criterion
from superbatch.selection.methods.full_matrix import MOST_CANDIDATES
from superbatch.selection.spec import Loss, Method

CHUNKS = (1, 2, 4, 8, 16, 32)
RATIOS = (0.0, 0.5, 0.8, 0.9)

INDEPENDENT = 1
"""N of an independent selection: the unit of the curve over N starts there."""

UNIT_RATIO = 0.5
"""The unit of the curve over f: what this f gains over f = 0. Both are always measured."""


class Cell(NamedTuple):
    """One joint selection of the curves, made once per seed. At f = 0 all candidates are the batch, whatever N is."""

    f: float
    num_chunks: int


@dataclass(frozen=True)
class Plan:
    """The curves of one sample; refuses what cannot be drawn, before any work.

    `f` is the filter ratio of the curve over N, `num_chunks` the N of the curve over f. All batches have b rows, so the
    curves compare batches of one size; a larger f means more candidates. With `num_iterations` = 0 no Gibbs sampling
    is done, and the largest N stands in its place as the unit.
    """

    b: int
    f: float = 0.8
    num_chunks: int = 16
    chunks: Sequence[int] = CHUNKS
    ratios: Sequence[float] = RATIOS
    num_seeds: int = 3
    loss: Loss = "sigmoid"
    criterion: Criterion = "learnability"
    gain: float = 1.0
    num_iterations: int = 2000

    def __post_init__(self) -> None:
        for f in (self.f, *self.ratios):
            if not 0 <= f < 1:
                raise InvalidInput(f"a filter ratio must be in [0, 1); got {f} (-f, --ratios). 0.8 keeps one in five.")
        if self.f == 0:
            raise InvalidInput("the curve over N needs f above 0, or there is nothing to choose; got 0 (-f). Use 0.8.")
        if not 1 <= self.num_seeds <= 100:
            raise InvalidInput(f"the number of seeds must be in [1, 100]; got {self.num_seeds} (--seeds). Use 3.")
        if self.num_iterations < 0:
            raise InvalidInput(f"iterations must be at least 0; got {self.num_iterations} (--iterations).")
        object.__setattr__(self, "chunks", tuple(sorted({INDEPENDENT, *self.chunks})))
        object.__setattr__(self, "ratios", tuple(sorted({0.0, UNIT_RATIO, *self.ratios})))
        for cell in self.cells():
            self.spec(cell, seed=0)
        B = self.num_candidates(self.f)
        if self.num_iterations and B > MOST_CANDIDATES:
            raise InvalidInput(
                f"Gibbs sampling compares all pairs of at most {MOST_CANDIDATES:,} candidates; got B = {B:,} "
                f"(b = {self.b:,}, f = {self.f:g}). Lower -b, or leave it out with --iterations 0."
            )

    def num_candidates(self, f: float) -> int:
        """Return B, the size of the super-batch that b rows are chosen from at this f."""
        return round(self.b / (1 - f))

    @property
    def num_rows_needed(self) -> int:
        """Return how many rows the sample must have: the largest B."""
        return max(self.num_candidates(f) for f in (self.f, *self.ratios))

    def cells(self) -> list[Cell]:
        """Return every joint selection of the curves once."""
        over_f = [Cell(f, num_chunks) for f in self.ratios for num_chunks in (INDEPENDENT, self.num_chunks)]
        over_N = [Cell(self.f, num_chunks) for num_chunks in self.chunks]
        return list(dict.fromkeys([*over_f, *over_N]))

    def spec(self, cell: Cell, *, seed: int) -> SelectionSpec:
        """Return the selection of one cell. Raises: InvalidSelection, for values that no selection takes."""
        return self._spec("joint", seed=seed, num_chunks=cell.num_chunks)

    def gibbs_spec(self, *, seed: int) -> SelectionSpec:
        """Return the Gibbs sampling that the curve over N is compared with."""
        return self._spec("gibbs", seed=seed, num_iterations=self.num_iterations)

    def _spec(self, method: Method, *, seed: int, num_chunks: int = 1, num_iterations: int = 1) -> SelectionSpec:
        return SelectionSpec(
            method=method,
            criterion=self.criterion,
            b=self.b,
            num_chunks=num_chunks,
            gain=self.gain,
            seed=seed,
            loss=self.loss,
            num_iterations=num_iterations,
        )


def largest_batch(num_rows: int, ratios: Sequence[float]) -> int:
    """Return the largest b for which `num_rows` rows are enough at every f."""
    return max(1, int(num_rows * (1 - max((0.0, UNIT_RATIO, *ratios))) + 1e-9))
