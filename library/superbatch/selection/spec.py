"""The parameters of one selection, and its result.

Letters: B candidates, b wanted rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from superbatch.selection.criteria import Criterion, criterion_weights
from superbatch.selection.errors import InvalidSelection

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int

Method = Literal["joint", "independent", "uniform"]
Sampling = Literal["gumbel", "top_k"]


@dataclass(frozen=True)
class SelectionSpec:
    """How to select b of the candidates; refuses bad values when made.

    `num_chunks` is N, the number of rounds of a joint selection. `gain` multiplies the score: a candidate is drawn
    with probability proportional to exp(gain * s_i + prior_i). `weights` are the sizes of the learner's and the
    reference's loss in the criterion; the criterion gives their signs. `sampling` is `gumbel` (draw) or `top_k` (take
    the best). `seed` is the job's, `seq` the position of the batch; the choice is a function of these and the
    candidates. `uniform` reads only b, seed and seq of these: it is always drawn.
    """

    method: Method
    criterion: Criterion
    b: int
    num_chunks: int = 16
    gain: float = 1.0
    weights: tuple[float, float] = (1.0, 1.0)
    sampling: Sampling = "gumbel"
    seed: int = 0
    seq: int = 0

    def __post_init__(self) -> None:
        criterion_weights(self.criterion, weights=self.weights)
        for name, rule, holds in _RULES:
            if not holds(self):
                raise InvalidSelection(f"{rule}; got {getattr(self, name)!r} (selection.{name}, b = {self.b}).")


@dataclass(frozen=True, eq=False)
class Selection:
    """The batch that was chosen, and for every candidate why or why not.

    `chosen_index` are positions among the candidates in order of choice. For each candidate: `round` in which it was
    chosen, counted from 1, -1 = not chosen; `score`, s_i without noise or prior in that round (not chosen: in the
    last round); `perturbed`, what was compared there: gain * s_i + prior + noise, -inf where the candidate was
    excluded.
    """

    chosen_index: Int[np.ndarray, " b"]
    round: Int[np.ndarray, " B"]
    score: Float[np.ndarray, " B"]
    perturbed: Float[np.ndarray, " B"]


_RULES: tuple[tuple[str, str, Callable[[SelectionSpec], bool]], ...] = (
    (
        "method",
        "method must be joint, independent or uniform",
        lambda s: s.method in ("joint", "independent", "uniform"),
    ),
    ("sampling", "sampling must be gumbel or top_k", lambda s: s.sampling in ("gumbel", "top_k")),
    ("b", "b must be at least 1; ask for one row or more", lambda s: s.b >= 1),
    ("num_chunks", "N must be in [1, b]; lower N or raise b", lambda s: 1 <= s.num_chunks <= s.b),
    ("gain", "gain must be in [0, 1e6]; use 1 for the paper's", lambda s: 0 <= s.gain <= 1e6),
    ("seed", "seed must fit in 64 bits without sign", lambda s: 0 <= s.seed < 2**64),
    ("seq", "seq must fit in 64 bits without sign; it counts from 0", lambda s: 0 <= s.seq < 2**64),
)
