"""What is refused before any work: one sentence each, with the place and the way out.

Letters: B candidates, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from superbatch.formats.schedule import super_batch_size
from superbatch.selection.candidates import Candidates, DualEmbeddings, at_least_float32
from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection, TooFewCandidates
from superbatch.selection.exclusions import Copies, count_by_rule, num_superfluous, repeated
from superbatch.selection.methods.peers import Peers
from superbatch.selection.methods.problem import ScoredModel
from superbatch.selection.pairs.block_threads import BlockThreads, Workspace
from superbatch.selection.spec import SelectionSpec, is_real

_ROWS_AT_ONCE_ON_GPU = 65_536  # smaller blocks cost more in launches than in work

UNIT_NORM_TOLERANCE = 2e-3
"""Embeddings are stored in fp16; this is what their length may be off by."""


def check_candidates(candidates: Candidates, models: Sequence[tuple[str, float, DualEmbeddings]]) -> None:
    """Raise unless the fields of the candidates fit together; no embedding is read yet.

    Args:
        candidates: the super-batch.
        models: (name, weight, embeddings) of each model that the selection reads; others are not looked at.
    Raises:
        InvalidSelection: fields of another length or type, one row twice, a prior that is NaN or +inf.
        InvalidEmbeddings: shapes, types or devices that do not fit, a bad scale or bias.
    """
    _check_fields(candidates)
    for name, _, model in models:
        _check_shapes(model, name=name, num_candidates=len(candidates))
        _check_logits(model, name=name, num_candidates=len(candidates))
    devices = {str(model.image.device) for _, _, model in models}
    if len(devices) > 1:
        raise InvalidEmbeddings(f"both models must be on one device; got {sorted(devices)}. Move one of them.")
    _check_distinct(candidates, device=models[0][2].image.device if models else torch.device("cpu"))


def check_enough(candidates: Candidates, spec: SelectionSpec, copies: Copies | None, *, peers: Peers) -> None:
    """Raise unless there are as many candidates as f says, and b that may be in one batch.

    What rules exclude from the start is counted, and of each content all candidates but one. Near-duplicates are not
    known yet.
    Args:
        candidates: let through by `check_candidates`.
        spec: b, f and the repetition cap are read.
        copies: of `find_copies`.
        peers: hold the other candidates, which count too.
    Raises:
        InvalidSelection: a number of candidates that contradicts b and f.
        TooFewCandidates: fewer than b are left.
    """
    num_candidates = peers.total(len(candidates))
    if spec.f is not None and num_candidates != super_batch_size(spec.b, spec.f):
        raise InvalidSelection(
            f"b = {spec.b} at f = {spec.f} needs B = {super_batch_size(spec.b, spec.f)} candidates; got "
            f"{num_candidates} (selection.f). Bring that many, or leave f out."
        )
    counts, left_B = count_by_rule(candidates.exclusions(spec), len(candidates), peers=peers)
    if copies is not None:
        counts["content"] = num_superfluous(copies, left_B, peers=peers)
    if num_candidates - sum(counts.values()) < spec.b:
        raise TooFewCandidates(b=spec.b, num_candidates=num_candidates, counts=counts)


def checked_model(name: str, weight: float, model: DualEmbeddings, candidates: Candidates) -> ScoredModel:
    """Return the model with the cosine of each pair, having looked at every embedding once.

    Raises:
        InvalidEmbeddings: an embedding that is not finite, or not of unit length within 2e-3, by model, tower and row.
    Cost: one pass over the embeddings, by blocks; memory O(B).
    """
    device = model.image.device
    cosine_B = torch.empty(len(model), dtype=torch.float64, device=device)
    norm_2B = torch.empty(2, len(model), dtype=torch.float64, device=device)

    def read(part: int, start: int, stop: int, workspace: Workspace | None) -> None:
        del part, workspace
        image_CD, text_CD = (at_least_float32(tower[start:stop]) for tower in (model.image, model.text))
        norm_2B[0, start:stop] = torch.linalg.vector_norm(image_CD, dim=1)
        norm_2B[1, start:stop] = torch.linalg.vector_norm(text_CD, dim=1)
        cosine_B[start:stop] = (image_CD * text_CD).sum(1)

    if device.type == "cpu":  # not by torch's own threads: they keep a core busy for milliseconds after their work
        with BlockThreads(len(model)) as threads:
            threads.for_each_block(read, num_parts=1)
    else:
        for start in range(0, len(model), _ROWS_AT_ONCE_ON_GPU):
            read(0, start, min(start + _ROWS_AT_ONCE_ON_GPU, len(model)), None)
    bad_2B = ~((norm_2B - 1).abs() <= UNIT_NORM_TOLERANCE)
    if bool(bad_2B.any()):
        tower, row = bad_2B.nonzero()[0].tolist()
        raise _not_of_unit_length(model, name=name, tower=tower, row=row, candidates=candidates)
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
        if field is not None and not _is_array(field, np.dtype(dtype), shape):
            raise InvalidSelection(
                f"{name} must be a numpy array, {np.dtype(dtype)} {list(shape)}; got {_described(field)} (candidates)."
            )
    if candidates.prior is not None:
        bad_B = np.isnan(candidates.prior) | np.isposinf(candidates.prior)
        if bad_B.any():
            row = int(bad_B.argmax())
            raise InvalidSelection(
                f"a prior must be finite, or -inf for never; got {candidates.prior[row]} "
                f"(row {row}, dataset_index {candidates.dataset_index[row]}). Use 0 for no preference."
            )
    if candidates.times_chosen is not None and (candidates.times_chosen < 0).any():
        row = int(candidates.times_chosen.argmin())
        raise InvalidSelection(
            f"times_chosen must be at least 0; got {candidates.times_chosen[row]} "
            f"(row {row}, dataset_index {candidates.dataset_index[row]}). Count how often the row was chosen."
        )


def _is_array(field: object, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    return isinstance(field, np.ndarray) and field.dtype == dtype and field.shape == shape


def _described(field: object) -> str:
    if isinstance(field, np.ndarray | torch.Tensor):
        return f"{type(field).__name__} {field.dtype} {list(field.shape)}"
    return type(field).__name__


def _check_distinct(candidates: Candidates, *, device: torch.device) -> None:
    index_B = candidates.dataset_index
    twice = repeated(index_B, device=device)
    if twice.size:
        first, second = np.flatnonzero(index_B == twice[0])[:2]
        raise InvalidSelection(
            f"a row may be a candidate once; got dataset_index {index_B[first]} twice (rows {first} and {second}). "
            "Draw each row once per super-batch."
        )


def _check_shapes(model: DualEmbeddings, *, name: str, num_candidates: int) -> None:
    image, text = model.image, model.text
    if not (isinstance(image, torch.Tensor) and isinstance(text, torch.Tensor)):
        raise InvalidEmbeddings(
            f"both towers must be torch tensors; got image {_described(image)}, text {_described(text)} ({name}). "
            "Use torch.from_numpy."
        )
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
    scale, bias = model.logit_scale, model.logit_bias
    if not (is_real(scale) and math.isfinite(scale) and 0 < 2 * scale < largest_logit):
        raise InvalidEmbeddings(
            f"logit_scale must be finite and above 0; got {scale!r} ({name}). Give t itself as a float, not log t."
        )
    if not (is_real(bias) and abs(2 * bias) < largest_logit):
        raise InvalidEmbeddings(f"logit_bias must be finite; got {bias!r} ({name}). SigLIP starts at -10.0.")


def _not_of_unit_length(
    model: DualEmbeddings, *, name: str, tower: int, row: int, candidates: Candidates
) -> InvalidEmbeddings:
    row_D = at_least_float32((model.image, model.text)[tower][row])
    place = f"{name}, {('image', 'text')[tower]} tower, row {row}, dataset_index {candidates.dataset_index[row]}"
    columns = (~torch.isfinite(row_D)).nonzero()
    if len(columns):
        column = int(columns[0, 0])
        return InvalidEmbeddings(
            f"embeddings must be finite; got {float(row_D[column])} ({place}, column {column}). "
            "Drop the row, and count it."
        )
    return InvalidEmbeddings(
        f"embeddings must have length 1 within {UNIT_NORM_TOLERANCE}; got {float(torch.linalg.vector_norm(row_D)):.6f} "
        f"({place}). Divide each row by its norm."
    )
