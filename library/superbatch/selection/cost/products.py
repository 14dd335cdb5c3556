"""The selection's own arithmetic: its matrix products, and the embeddings that they read.

Letters: B candidates, b chosen, N rounds, m rows of the probe, D width of a model's embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from superbatch.selection.chunks import chunk_sizes

Loss = Literal["sigmoid", "softmax"]

DIRECTIONS = 2
TOWERS = 2


def selection_flops(
    *,
    B: int,
    b: int,
    N: int,
    widths: Sequence[int],
    joint: bool = True,
    loss: Loss = "sigmoid",
    probe_size: int | None = None,
) -> int:
    """Return the FLOPs of the matrix products of one selection.

    Per model 2*B*D for the diagonal and, where it is joint, 2 products (one per direction) of 2*B*b'*D, b' = all
    chosen but the last round's, whom nothing comes after: b*(N-1)/N where N divides b. Two models make it
    4*2*B*b*(N-1)/N*D. Softmax scores the first round against a probe: 2 products of 2*B*m*D per model. Exponentials
    and logarithms are not counted.
    Args:
        widths: D of each model that the criterion uses; learnability has two, easy_reference one.
        joint: False = one round, each candidate alone.
        probe_size: m; None = b. Read under softmax only.
    """
    added = b - chunk_sizes(b, N)[-1] if joint else 0
    probe = (b if probe_size is None else probe_size) if loss == "softmax" else 0
    return sum(2 * B * D + DIRECTIONS * 2 * B * (added + probe) * D for D in widths)


def own_loss_flops(*, b: int, widths: Sequence[int]) -> int:
    """Return the FLOPs of a batch list's loss columns: 2 products of 2*b*b*D for each model."""
    return sum(DIRECTIONS * 2 * b * b * D for D in widths)


def embedding_bytes(*, rows: int, widths: Sequence[int], bytes_per_number: int) -> int:
    """Return the bytes of both towers' embeddings of some rows, over all models."""
    return rows * TOWERS * sum(widths) * bytes_per_number


def selection_passes(*, N: int, joint: bool = True, loss: Loss = "sigmoid") -> int:
    """Return how often one selection reads all its embeddings: for the diagonal, each round but the last, and
    under softmax the probe.

    A round of n = b/N does 2*n FLOPs for each number that it reads, so few, large rounds keep a device busy and many,
    small ones wait for memory.
    """
    return (N if joint else 1) + (loss == "softmax")
