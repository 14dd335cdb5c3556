"""One batch from one super-batch: a pure function of the schedule row, the candidates and their embeddings.

Letters: B candidates, K of them with a finite learner embedding, b chosen, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from superbatch.formats.batch_list import batch_rows
from superbatch.formats.errors import SuperbatchError
from superbatch.formats.score_shard import NOT_CHOSEN, SCORE_SHARD_SCHEMA
from superbatch.selection.candidates import Candidates, DualEmbeddings
from superbatch.selection.dispatch import select
from superbatch.selection.losses import diagonal_loss, own_conditional_loss
from superbatch.selection.slots import slot_permutation
from superbatch.selection.spec import Selection, SelectionSpec
from superbatch_server.schemas import jobs
from superbatch_server.schemas.attempts import ScheduleRow, SourceCounts
from superbatch_server.workers.embed import UNIT_NORM_TOLERANCE
from superbatch_server.workers.row_scorer import RowEmbeddings

_SAME_COLUMNS = (
    *("uid", "dataset_index", "shard_id", "sample_index", "key", "sample_offset", "sample_length"),
    *("a_offset", "a_length", "b_offset", "b_length"),
)

Array = npt.NDArray[np.float64]


class LearnerNotFinite(SuperbatchError):
    """Fewer candidates than b have a finite learner embedding."""

    code = "learner_not_finite"

    def __init__(self, *, finite: int, b: int, seq: int) -> None:
        super().__init__(finite, b, seq)
        self.finite, self.b, self.seq = finite, b, seq

    def __str__(self) -> str:
        return (
            f"at least b = {self.b} candidates must have a finite learner embedding; got {self.finite} "
            f"(seq {self.seq}). Look for a learner that diverged, and push an earlier checkpoint."
        )


@dataclass(frozen=True, eq=False)
class Composed:
    """A batch as it will be published, and everything that was found out about its super-batch."""

    batch: pa.Table
    scores: pa.Table
    counts: dict[str, SourceCounts]
    mean_chosen: float | None
    """Mean score of the chosen; None where nothing is scored."""
    mean_candidates: float | None


def finite_rows(learner: RowEmbeddings) -> npt.NDArray[np.bool_]:
    """Return which rows have unit vectors in both towers; a model that broke gives NaN."""
    norm_2B = np.stack([np.linalg.norm(tower_BD, axis=1) for tower_BD in (learner.image, learner.text)])
    return np.asarray((np.abs(norm_2B - 1) <= UNIT_NORM_TOLERANCE).all(axis=0))


def compose(
    row: ScheduleRow,
    candidates: pa.Table,
    *,
    learner: RowEmbeddings | None,
    reference: RowEmbeddings | None,
    selection: jobs.SelectionSpec,
    seed: int,
) -> Composed:
    """Return the batch that a schedule row decides.

    Candidates whose learner embedding is not finite are dropped, and counted.

    Args:
        candidates: B rows as `CandidateTables.table` gives them.
        learner, reference: embeddings of the same rows; None where the row's method and criterion do not use them.
        selection: the constants b, N and sampling; everything scheduled comes from the row.
    Raises: LearnerNotFinite.
    Cost: that of the selection.
    """
    B = candidates.num_rows
    finite_B = finite_rows(learner) if learner else np.ones(B, dtype=bool)
    kept_K = np.flatnonzero(finite_B)
    if len(kept_K) < selection.b:
        raise LearnerNotFinite(finite=len(kept_K), b=selection.b, seq=row.seq)
    uid_B16 = np.frombuffer(b"".join(candidates.column("uid").to_pylist()), dtype=np.uint8).reshape(B, 16)
    index_B = candidates.column("dataset_index").to_numpy()
    models = {name: _dual(found, kept_K) for name, found in (("learner", learner), ("reference", reference)) if found}
    chosen = select(
        Candidates(
            uid=uid_B16[kept_K],
            dataset_index=index_B[kept_K],
            learner=models.get("learner"),
            reference=models.get("reference"),
        ),
        _selection_spec(row, selection, seed),
    )
    in_choice_b = chosen.chosen_index
    slots_b = slot_permutation(
        seed, row.seq, uids=uid_B16[kept_K][in_choice_b], dataset_index=index_B[kept_K][in_choice_b]
    )
    members_b = in_choice_b[slots_b]
    is_scored = row.method is not jobs.Method.UNIFORM
    return Composed(
        batch=_batch(row, candidates.take(pa.array(kept_K[members_b])), members_b, chosen, models),
        scores=_scores(row, candidates, kept_K, chosen, models),
        counts=_counts(candidates.column("source").to_pylist(), set(kept_K[members_b].tolist()), finite_B),
        mean_chosen=float(chosen.score[members_b].mean()) if is_scored else None,
        mean_candidates=float(chosen.score.mean()) if is_scored else None,
    )


def _selection_spec(row: ScheduleRow, selection: jobs.SelectionSpec, seed: int) -> SelectionSpec:
    return SelectionSpec(
        method=row.method.value,
        criterion=row.criterion.value,
        b=selection.b,
        num_chunks=selection.N,
        gain=row.gain,
        weights=row.weights,
        sampling=selection.sampling,
        seed=seed,
        seq=row.seq,
    )


def _dual(found: RowEmbeddings, kept_K: npt.NDArray[np.int64]) -> DualEmbeddings:
    image_KD, text_KD = torch.from_numpy(found.image[kept_K]), torch.from_numpy(found.text[kept_K])
    return DualEmbeddings(image_KD, text_KD, found.logit_scale, found.logit_bias)


def _batch(
    row: ScheduleRow,
    members: pa.Table,
    members_b: npt.NDArray[np.int64],
    chosen: Selection,
    models: Mapping[str, DualEmbeddings],
) -> pa.Table:
    b = len(members_b)
    columns: dict[str, object] = {name: members.column(name) for name in _SAME_COLUMNS}
    columns |= {
        "batch_seq": pa.array(np.full(b, row.seq, dtype=np.int64)),
        "slot": pa.array(np.arange(b, dtype=np.int32)),
        "caption_index": pa.array(np.zeros(b, dtype=np.int16)),
        "variant": pa.array(np.zeros(b, dtype=np.int8)),
    }
    if row.method is not jobs.Method.UNIFORM:
        columns["chunk"] = pa.array(chosen.round[members_b].astype(np.int16))
        columns["score"] = pa.array(chosen.score[members_b].astype(np.float32))
    for name, model in models.items():
        loss_b = own_conditional_loss(model.take(members_b)).numpy()
        columns[f"loss_{name}"] = pa.array(loss_b.astype(np.float32))
    return batch_rows(columns)


def _scores(
    row: ScheduleRow,
    candidates: pa.Table,
    kept_K: npt.NDArray[np.int64],
    chosen: Selection,
    models: Mapping[str, DualEmbeddings],
) -> pa.Table:
    """Return the rows of the score shard, in the order of the draw; a dropped candidate has nulls."""
    B = candidates.num_rows
    round_B = np.full(B, NOT_CHOSEN, dtype=np.int16)
    round_B[kept_K] = chosen.round
    is_scored = row.method is not jobs.Method.UNIFORM
    columns = {
        "batch_seq": pa.array(np.full(B, row.seq, dtype=np.int64)),
        "dataset_index": candidates.column("dataset_index"),
        "uid": candidates.column("uid"),
        "round": pa.array(round_B),
        "score": _spread(chosen.score if is_scored else None, kept_K, B),
        "perturbed_score": _spread(chosen.perturbed if is_scored else None, kept_K, B),
    }
    for name in ("learner", "reference"):
        loss_K = diagonal_loss(models[name]).numpy() if name in models else None
        columns[f"loss_{name}"] = _spread(loss_K, kept_K, B)
    return pa.table({name: columns[name] for name in SCORE_SHARD_SCHEMA.names})


def _spread(value_K: Array | None, kept_K: npt.NDArray[np.int64], B: int) -> pa.Array:
    """Return float32 values of the kept candidates at their places among all, null elsewhere."""
    if value_K is None:
        return pa.nulls(B, pa.float32())
    value_B = np.zeros(B, dtype=np.float32)
    value_B[kept_K] = value_K
    absent_B = np.ones(B, dtype=bool)
    absent_B[kept_K] = False
    return pa.array(value_B, mask=absent_B)


def _counts(sources: list[str], chosen: set[int], finite_B: npt.NDArray[np.bool_]) -> dict[str, SourceCounts]:
    found: dict[str, list[int]] = {}
    for position, source in enumerate(sources):
        counts = found.setdefault(source, [0, 0, 0])
        counts[0] += 1
        counts[1] += position in chosen
        counts[2] += not finite_B[position]
    return {
        source: SourceCounts(candidates=total, selected=selected, dropped=dropped)
        for source, (total, selected, dropped) in sorted(found.items())
    }
