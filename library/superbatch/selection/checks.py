"""What is refused before any work: one sentence each, with the place and the way out.

Letters: B candidates, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from superbatch.selection.candidates import Candidates, DualEmbeddings
from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection, TooFewCandidates

if TYPE_CHECKING:
    from torch import Tensor

UNIT_NORM_TOLERANCE = 2e-3
"""Embeddings are stored in fp16; this is what their length may be off by."""


def check_candidates(candidates: Candidates, models: Sequence[tuple[str, float, DualEmbeddings]], *, b: int) -> None:
    """Raise unless b of the candidates can be selected under these models.

    Args:
        candidates: the super-batch.
        models: (name, weight, embeddings) of each model that the criterion uses; others are not looked at.
        b: wanted rows.
    Raises:
        InvalidSelection: fields of another length or type, one row twice, a prior that is NaN or +inf.
        InvalidEmbeddings: shapes, types or devices that do not fit, a bad scale or bias, embeddings that are not finite
            or not of unit length within 2e-3.
        TooFewCandidates: fewer than b are left.
    Cost: one pass over the embeddings.
    """
    _check_fields(candidates)
    for name, _, model in models:
        _check_shapes(model, name=name, num_candidates=len(candidates))
        _check_logits(model, name=name, num_candidates=len(candidates))
    devices = {str(model.image.device) for _, _, model in models}
    if len(devices) > 1:
        raise InvalidEmbeddings(f"both models must be on one device; got {sorted(devices)}. Move one of them.")
    for name, _, model in models:
        for tower, tower_BD in (("image", model.image), ("text", model.text)):
            _check_unit_rows(tower_BD, where=f"{name}, {tower} tower", candidates=candidates)
    _check_enough(candidates, b=b)


def _check_fields(candidates: Candidates) -> None:
    B = len(candidates)
    wanted = (
        ("uid", candidates.uid, "u1", (B, 16)),
        ("dataset_index", candidates.dataset_index, "i8", (B,)),
        ("prior", candidates.prior, "f8", (B,)),
        ("eligible", candidates.eligible, "?", (B,)),
    )
    for name, field, dtype, shape in wanted:
        if field is not None and (field.dtype != np.dtype(dtype) or field.shape != shape):
            raise InvalidSelection(
                f"{name} must be {np.dtype(dtype)} {list(shape)}; got {field.dtype} {list(field.shape)} (candidates)."
            )
    if candidates.prior is not None:
        bad_B = np.isnan(candidates.prior) | np.isposinf(candidates.prior)
        if bad_B.any():
            row = int(bad_B.argmax())
            raise InvalidSelection(
                f"a prior must be finite, or -inf for never; got {candidates.prior[row]} "
                f"(row {row}, dataset_index {candidates.dataset_index[row]}). Use 0 for no preference."
            )
    _check_distinct(candidates)


def _check_distinct(candidates: Candidates) -> None:
    index_B = candidates.dataset_index
    order_B = np.argsort(index_B, kind="stable")
    same = np.flatnonzero(index_B[order_B[1:]] == index_B[order_B[:-1]])
    if same.size:
        first, second = sorted(int(row) for row in order_B[same[0] : same[0] + 2])
        raise InvalidSelection(
            f"a row may be a candidate once; got dataset_index {index_B[first]} twice (rows {first} and {second}). "
            "Draw each row once per super-batch."
        )


def _check_shapes(model: DualEmbeddings, *, name: str, num_candidates: int) -> None:
    image, text = model.image, model.text
    if image.ndim != 2 or image.shape != text.shape or len(image) != num_candidates:
        raise InvalidEmbeddings(
            f"both towers must be [B, D] with B = {num_candidates}; got image {list(image.shape)}, text "
            f"{list(text.shape)} ({name}). Encode the same rows with both towers."
        )
    if image.dtype != text.dtype or image.dtype not in (torch.float32, torch.float64):
        raise InvalidEmbeddings(
            f"both towers must be float32, or both float64; got image {image.dtype}, text {text.dtype} ({name}). "
            "Cast cached embeddings with .float()."
        )
    if image.requires_grad or text.requires_grad:
        raise InvalidEmbeddings(
            f"embeddings must carry no gradient; got requires_grad ({name}). Pass .detach() of them."
        )
    if image.device != text.device:
        raise InvalidEmbeddings(
            f"both towers must be on one device; got image {image.device}, text {text.device} ({name}). Move one."
        )


def _check_logits(model: DualEmbeddings, *, name: str, num_candidates: int) -> None:
    # 2B logits of at most 1.005 t + |bias| are added up in the embeddings' type.
    largest_logit = torch.finfo(model.image.dtype).max / (4 * num_candidates + 1)
    if not (math.isfinite(model.logit_scale) and 0 < 2 * model.logit_scale < largest_logit):
        raise InvalidEmbeddings(
            f"logit_scale must be finite and above 0; got {model.logit_scale} ({name}). Give t itself, not log t."
        )
    if not abs(2 * model.logit_bias) < largest_logit:
        raise InvalidEmbeddings(f"logit_bias must be finite; got {model.logit_bias} ({name}). SigLIP starts at -10.")


def _check_unit_rows(tower_BD: Tensor, *, where: str, candidates: Candidates) -> None:
    norm_B = torch.linalg.vector_norm(tower_BD, dim=1)
    bad_B = ~((norm_B - 1).abs() <= UNIT_NORM_TOLERANCE)
    if not bool(bad_B.any()):
        return
    row = int(bad_B.nonzero()[0])
    place = f"{where}, row {row}, dataset_index {candidates.dataset_index[row]}"
    column = (~torch.isfinite(tower_BD[row])).nonzero()
    if len(column):
        value = float(tower_BD[row, column[0, 0]])
        raise InvalidEmbeddings(
            f"embeddings must be finite; got {value} ({place}, column {int(column[0, 0])}). Drop the row, and count it."
        )
    raise InvalidEmbeddings(
        f"embeddings must have length 1 within {UNIT_NORM_TOLERANCE}; got {float(norm_B[row]):.6f} ({place}). "
        "Divide each row by its norm."
    )


def _check_enough(candidates: Candidates, *, b: int) -> None:
    counts: dict[str, int] = {}
    left_B = np.ones(len(candidates), dtype=bool)
    for rule, mask_B in candidates.exclusions().items():
        counts[rule] = int((left_B & mask_B).sum())
        left_B &= ~mask_B
    if left_B.sum() < b:
        raise TooFewCandidates(b=b, num_candidates=len(candidates), counts=counts)
