"""What is refused before any work: one sentence each, with the place and the way out.

Letters: B candidates, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from superbatch.selection.candidates import Candidates, DualEmbeddings, at_least_float32
from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection, TooFewCandidates
from superbatch.selection.methods.peers import Peers
from superbatch.selection.methods.problem import ScoredModel
from superbatch.selection.spec import SelectionSpec

if TYPE_CHECKING:
    from torch import Tensor

_ROWS_AT_ONCE = 4096

UNIT_NORM_TOLERANCE = 2e-3
"""Embeddings are stored in fp16; this is what their length may be off by."""


def check_candidates(
    candidates: Candidates, spec: SelectionSpec, models: Sequence[tuple[str, float, DualEmbeddings]], *, peers: Peers
) -> None:
    """Raise unless b of the candidates can be selected under these models; no embedding is read yet.

    Args:
        candidates: the super-batch.
        spec: b and the exclusions are read.
        models: (name, weight, embeddings) of each model that the selection reads; others are not looked at.
        peers: hold the other candidates, which count too.
    Raises:
        InvalidSelection: fields of another length or type, one row twice, a prior that is NaN or +inf.
        InvalidEmbeddings: shapes, types or devices that do not fit, a bad scale or bias.
        TooFewCandidates: fewer than b are left.
    """
    _check_fields(candidates)
    for name, _, model in models:
        _check_shapes(model, name=name, num_candidates=len(candidates))
        _check_logits(model, name=name, num_candidates=len(candidates))
    devices = {str(model.image.device) for _, _, model in models}
    if len(devices) > 1:
        raise InvalidEmbeddings(f"both models must be on one device; got {sorted(devices)}. Move one of them.")
    _check_enough(candidates, spec, peers=peers)


def checked_model(name: str, weight: float, model: DualEmbeddings, candidates: Candidates) -> ScoredModel:
    """Return the model with the cosine of each pair, having looked at every embedding once.

    Raises:
        InvalidEmbeddings: an embedding that is not finite, or not of unit length within 2e-3, by model, tower and row.
    Cost: one pass over the embeddings, by blocks; memory O(B).
    """
    cosine_B = torch.empty(len(model), dtype=torch.float64, device=model.image.device)
    for start in range(0, len(model), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(model))
        image_CD, text_CD = (at_least_float32(tower[start:stop]) for tower in (model.image, model.text))
        for tower, tower_CD in (("image", image_CD), ("text", text_CD)):
            _check_unit_rows(tower_CD, where=f"{name}, {tower} tower", first_row=start, candidates=candidates)
        cosine_B[start:stop] = (image_CD * text_CD).sum(1)
    return ScoredModel(name, weight, model, cosine_B)


def _check_fields(candidates: Candidates) -> None:
    B = len(candidates)
    wanted = (
        ("uid", candidates.uid, "u1", (B, 16)),
        ("dataset_index", candidates.dataset_index, "i8", (B,)),
        ("prior", candidates.prior, "f8", (B,)),
        ("eligible", candidates.eligible, "?", (B,)),
        ("content", candidates.content, "u1", (B, 16)),
        ("times_chosen", candidates.times_chosen, "i8", (B,)),
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
    if image.dtype != text.dtype or not image.is_floating_point():
        raise InvalidEmbeddings(
            f"both towers must be of one float type; got image {image.dtype}, text {text.dtype} ({name}). Cast one."
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
    # 2B logits of at most 1.005 t + |bias| are added up in this type.
    dtype = torch.float64 if model.image.dtype == torch.float64 else torch.float32
    largest_logit = torch.finfo(dtype).max / (4 * num_candidates + 1)
    if not (math.isfinite(model.logit_scale) and 0 < 2 * model.logit_scale < largest_logit):
        raise InvalidEmbeddings(
            f"logit_scale must be finite and above 0; got {model.logit_scale} ({name}). Give t itself, not log t."
        )
    if not abs(2 * model.logit_bias) < largest_logit:
        raise InvalidEmbeddings(f"logit_bias must be finite; got {model.logit_bias} ({name}). SigLIP starts at -10.")


def _check_unit_rows(tower_CD: Tensor, *, where: str, first_row: int, candidates: Candidates) -> None:
    norm_C = torch.linalg.vector_norm(tower_CD, dim=1)
    bad_C = ~((norm_C - 1).abs() <= UNIT_NORM_TOLERANCE)
    if not bool(bad_C.any()):
        return
    bad = int(bad_C.nonzero()[0])
    row = first_row + bad
    place = f"{where}, row {row}, dataset_index {candidates.dataset_index[row]}"
    column = (~torch.isfinite(tower_CD[bad])).nonzero()
    if len(column):
        value = float(tower_CD[bad, column[0, 0]])
        raise InvalidEmbeddings(
            f"embeddings must be finite; got {value} ({place}, column {int(column[0, 0])}). Drop the row, and count it."
        )
    raise InvalidEmbeddings(
        f"embeddings must have length 1 within {UNIT_NORM_TOLERANCE}; got {float(norm_C[bad]):.6f} ({place}). "
        "Divide each row by its norm."
    )


def _check_enough(candidates: Candidates, spec: SelectionSpec, *, peers: Peers) -> None:
    counts: dict[str, int] = {}
    left_B = np.ones(len(candidates), dtype=bool)
    for rule, mask_B in candidates.exclusions(spec).items():
        counts[rule] = peers.total(int((left_B & mask_B).sum()))
        left_B &= ~mask_B
    if peers.total(int(left_B.sum())) < spec.b:
        raise TooFewCandidates(b=spec.b, num_candidates=peers.total(len(candidates)), counts=counts)
