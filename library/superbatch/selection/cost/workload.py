"""The run that is planned: models, data, batch, length.

Letters: M rows of the data set, B candidates, b rows of a batch, N rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Literal

from superbatch.formats.schedule import super_batch_size
from superbatch.selection.cost.architecture import Architecture
from superbatch.selection.cost.errors import check
from superbatch.selection.cost.steps import LowResolution

LARGEST_BLOCK_ROWS = 256
BLOCKS_PER_SUPER_BATCH = 16
CHECKPOINT_BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class Model:
    """What the cost of a dual encoder depends on."""

    name: str
    forward_flops: float
    """F: one pair through both towers, 2 for each multiply-add."""
    width: int
    """D: width of an embedding."""
    checkpoint_bytes: int | None = None
    """Size of a pushed checkpoint; None = not known."""
    low_resolution_cost: float | None = None
    """Forward FLOPs at twice the patch relative to F; None = not known."""

    def __post_init__(self) -> None:
        flops = self.forward_flops
        check(0 < flops < inf, "the forward FLOPs of a model must be above 0", flops, "ViT-B-16 has 41e9.")
        check(self.width >= 1, "the width of an embedding must be at least 1", self.width, "ViT-B-16 has 512.")

    @classmethod
    def of_architecture(cls, name: str, architecture: Architecture) -> Model:
        """Return the model of an architecture; a checkpoint is fp32 weights."""
        coarse = architecture.with_patch(2 * architecture.image.patch_pixels)
        return cls(
            name=name,
            forward_flops=architecture.forward_flops,
            width=architecture.embedding_width,
            checkpoint_bytes=architecture.parameters * CHECKPOINT_BYTES_PER_PARAMETER,
            low_resolution_cost=coarse.forward_flops / architecture.forward_flops,
        )


@dataclass(frozen=True)
class Workload:
    """A run of `num_batches` steps; refuses what no run can be when made."""

    learner: Model
    reference: Model
    rows: int
    """M, rows of the pool."""
    b: int
    f: float
    """Filter ratio, one for the whole run."""
    N: int
    num_batches: int
    loss: Literal["sigmoid", "softmax"] = "sigmoid"
    reference_examples: int = 0
    """Examples that the reference was trained on; 0 = it is there already."""
    example_bytes: float = 25_000.0
    """Picture and caption as stored: about that of a web picture of 256 pixels."""
    checkpoint_every: int | None = None
    """Batches between two pushed checkpoints of the learner."""
    low_resolution: LowResolution = field(default_factory=LowResolution)

    def __post_init__(self) -> None:
        check(self.b >= 1, "b must be at least 1", self.b, "b counts the rows of one batch over all ranks.")
        check(isfinite(self.f) and 0 <= self.f < 1, "f must be in [0, 1)", self.f, "Use 0.8 to keep one in five.")
        check(1 <= self.N <= self.b, f"N must be in [1, b = {self.b}]", self.N, "Lower N or raise b.")
        check(self.rows >= 1, "the data set must have at least 1 row", self.rows, "Give its size.")
        rule = f"a super-batch must fit into the data set of {self.rows:,} rows"
        check(self.rows >= self.B, rule, self.B, "Lower b or f, or take more data.")
        check(self.num_batches >= 1, "a run must have at least 1 batch", self.num_batches, "Ask for one or more.")
        rule = "the examples that the reference was trained on must be at least 0"
        check(self.reference_examples >= 0, rule, self.reference_examples, "Use 0 for one that is there.")
        size = self.example_bytes
        check(1 <= size < inf, "an example must take at least 1 byte", size, "25,000 are common for 256 pixels.")
        every = self.checkpoint_every
        if every is not None:
            check(every >= 1, "checkpoints must lie at least 1 batch apart", every, "Leave it out for none.")

    @property
    def B(self) -> int:  # noqa: N802  (the paper's name)
        """Candidates of a super-batch, as the service rounds them."""
        return super_batch_size(self.b, self.f)

    @property
    def R(self) -> float:  # noqa: N802
        """Candidates for each row of the batch."""
        return self.B / self.b

    @property
    def uniform_step_flops(self) -> float:
        """3*F*b: a forward pass, and a backward pass of twice that."""
        return 3 * self.learner.forward_flops * self.b

    @property
    def block_rows(self) -> int:
        """Consecutive rows drawn together, as the service sets it where a job leaves it open."""
        return max(1, min(LARGEST_BLOCK_ROWS, self.B // BLOCKS_PER_SUPER_BATCH))
