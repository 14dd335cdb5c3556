"""What the service asks of a dual encoder, whatever its family.

B rows, D embedding width; C colours, H x W pixels, T tokens. Tower a is the picture ("image"), tower b the caption
("text").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32, Int64, UInt8

MAX_NORM_ERROR = 2e-3
"""How far the norm of an embedding may be from 1: what fp16 storage and bf16 towers need."""


@dataclass(frozen=True, eq=False)
class PreparedRow:
    """One pair after deterministic preprocessing: fixed shapes, so that any rows of one encoder stack.

    Opaque to everyone but the encoder that made it. Small enough to hold many: pixels stay uint8.
    """

    image: UInt8[np.ndarray, "C H W"]
    text: Int64[np.ndarray, " T"]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Unit vectors of B pairs, one row per pair."""

    image_BD: Float32[np.ndarray, "B D"]
    text_BD: Float32[np.ndarray, "B D"]

    def __len__(self) -> int:
        """Return B."""
        return len(self.image_BD)


class DualEncoder(Protocol):
    """Two towers that turn a stored pair into two unit vectors of one width.

    The law, which every implementation keeps and tests/encoders/test_law.py checks:

    1. The same rows at the same positions of a micro-batch give the same bits, however often and in whichever process,
       under one numerics profile. (In a micro-batch of another size the last bits may differ: see `microbatch.py`.)
    2. A row's embedding does not depend on its neighbours beyond those last bits: no batch statistics.
    3. `prepare` and `encode` are deterministic: eval mode, no dropout, no augmentation, no gradient.
    4. Embeddings are fp32 with norm 1 within `MAX_NORM_ERROR`, or a whole row of NaN where the model's output has no
       direction (not finite, or 0); they are never repaired.
    5. `blank()` can always be encoded.
    """

    @property
    def digest(self) -> str:
        """Identity of everything that decides an embedding except the numerics profile: 64 hex digits.

        Covers family, weights, config, tokenizer and the version of the preprocessing.
        """

    @property
    def width(self) -> int:
        """D, the number of columns of an embedding."""

    @property
    def logit_scale(self) -> float:
        """The model's own scale t > 0 of its logits."""

    @property
    def logit_bias(self) -> float:
        """The model's own bias of its logits; 0 for a softmax model."""

    @property
    def forward_flops_per_example(self) -> float:
        """FLOPs of one pair through both towers, 2 per multiply-add."""

    def prepare(self, a: bytes | None, b: bytes | None) -> PreparedRow:
        """Return the pair ready for `encode`, or raise `BadRow` with the reason for quarantine.

        Args:
            a: the encoded picture as stored; None or empty when missing.
            b: the caption as stored, UTF-8; None when missing.
        Raises: superbatch.tiny.picture.BadRow, never another error for any bytes.
        """

    def blank(self) -> PreparedRow:
        """Return the row that stands in for a quarantined one, and for nothing in a padded micro-batch."""

    def encode(self, rows: Sequence[PreparedRow]) -> Embeddings:
        """Return the embeddings of one micro-batch, in the order of `rows`.

        Args:
            rows: at least one row made by this encoder's `prepare` or `blank`.
        Returns: two fp32 arrays of len(rows) x width.
        """
