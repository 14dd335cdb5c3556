"""What selection needs of the hardware: for each row, one number over all its logits with some other rows.

    softplus_sum    sum over k of softplus(L_ik)     the sigmoid loss of negatives
    log_sum_exp     log of the sum of exp(L_ik)      the denominator of the softmax loss
    maximum         the largest L_ik                 nearest neighbours, near-duplicates

Logits L_ik = scale * <left_i, right_k> + bias. An engine works such reductions off. Besides, embeddings of different
rows are multiplied only where the matrix itself is wanted: `methods.full_matrix` for small B, and `methods.duplicates`
for the rows like one of the batch.

Letters: B rows, D width, n rows that they are paired with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int
    from torch import Tensor

How = Literal["softplus_sum", "log_sum_exp", "maximum"]

EMPTY: dict[How, float] = {"softplus_sum": 0.0, "log_sum_exp": -torch.inf, "maximum": -torch.inf}
"""What a reduction over no pair gives."""


@dataclass(frozen=True, eq=False)
class PairReduction:
    """One number per row of `left`, over all rows of `right`.

    `left` may be of any float type and lie in memory-mapped files; `right` is small. Pair (i, k) is left out where
    `own[k]` is i: `own` holds, for each row of `right`, its position in `left`, or -1 where it has none; None = no pair
    is left out. `exact` asks for products in float32 at least, whatever the engine's type.
    """

    left: Float[Tensor, "B D"]
    right: Float[Tensor, "n D"]
    scale: float
    bias: float
    how: How
    own: Int[Tensor, " n"] | None = None
    exact: bool = False


class PairEngine(Protocol):
    """Law: `reduce` equals the same reduction of the whole matrix of logits, up to the rounding of `compute_dtype`.

    An engine is a context manager, made for one number of rows; the bits of row i depend on that number and on the
    inputs, never on how many threads there are.
    """

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of the factors of the products; sums of products are never kept in less than float32."""
        ...

    def reduce(self, requests: Sequence[PairReduction]) -> list[Float64[Tensor, " B"]]:
        """Return one new fp64 vector per request. All requests have the same number of rows on the left."""
        ...

    def __enter__(self) -> PairEngine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
