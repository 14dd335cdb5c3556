"""One batch from one super-batch: a pure function of the schedule row, the candidates and their embeddings.

Letters: B candidates, K of them with a finite learner embedding, b chosen, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from superbatch.formats.errors import SuperbatchError
from superbatch.formats.uid import UID_BYTES
from superbatch.selection.candidates import Candidates, DualEmbeddings
from superbatch.selection.dispatch import select
from superbatch.selection.errors import TooFewCandidates
from superbatch.selection.losses import diagonal_loss, own_conditional_loss, probe_loss
from superbatch.selection.methods.softmax import probe_index
from superbatch.selection.slots import in_slots
from superbatch.selection.spec import SelectionSpec
from superbatch_server.schemas import selection as schemas
from superbatch_server.schemas.attempts import ScheduleRow, SourceCounts
from superbatch_server.workers.byte_rows import byte_rows
from superbatch_server.workers.embed import UNIT_NORM_TOLERANCE
from superbatch_server.workers.row_scorer import RowEmbeddings
from superbatch_server.workers.tables import batch_table, score_table

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


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


class BatchNotFilled(TooFewCandidates):
    """Exclusions leave fewer than b of a super-batch; rows whose learner embedding is not finite count as one more."""

    def __init__(self, error: TooFewCandidates, *, dropped: int, seq: int) -> None:
        counts = {"learner_not_finite": dropped, **error.counts} if dropped else error.counts
        super().__init__(b=error.b, num_candidates=error.num_candidates + dropped, counts=counts)
        self.seq = seq

    def __str__(self) -> str:
        return f"{super().__str__()} (seq {self.seq})"


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


def uids_of(candidates: pa.Table) -> npt.NDArray[np.uint8]:
    """Return the uids of candidates, [B, 16]."""
    return byte_rows(candidates.column("uid"))


def compose(
    row: ScheduleRow,
    candidates: pa.Table,
    *,
    learner: RowEmbeddings | None,
    reference: RowEmbeddings | None,
    selection: schemas.SelectionSpec,
    seed: int,
    times_chosen: npt.NDArray[np.int64] | None = None,
) -> Composed:
    """Return the batch that a schedule row decides.

    Candidates whose learner embedding is not finite are dropped, and counted. No two rows of a batch have the same
    content of tower a.

    Args:
        candidates: B rows as `CandidateTables.table` gives them.
        learner, reference: embeddings of the same rows; None where the row's method and criterion, and the exclusion
            of near-copies, do not use them.
        selection: everything that is constant over the job; what is scheduled comes from the row.
        times_chosen: [B], how often each was chosen before; None without a repetition cap.
    Raises: LearnerNotFinite; BatchNotFilled when exclusions leave fewer than b.
    Cost: that of the selection; under softmax also that of its probe once more, for the score shard.
    """
    finite_B = finite_rows(learner) if learner else np.ones(candidates.num_rows, dtype=bool)
    kept_K = np.flatnonzero(finite_B)
    if len(kept_K) < selection.b:
        raise LearnerNotFinite(finite=len(kept_K), b=selection.b, seq=row.seq)
    kept = Candidates(
        uid=uids_of(candidates)[kept_K],
        dataset_index=candidates.column("dataset_index").to_numpy()[kept_K],
        learner=_dual(learner, kept_K) if learner else None,
        reference=_dual(reference, kept_K) if reference else None,
        content=np.ascontiguousarray(byte_rows(candidates.column("a_sha256"))[kept_K, :UID_BYTES]),
        times_chosen=None if times_chosen is None else times_chosen[kept_K],
    )
    spec = _selection_spec(row, selection, seed)
    try:
        chosen = select(kept, spec)
    except TooFewCandidates as error:
        raise BatchNotFilled(error, dropped=int((~finite_B).sum()), seq=row.seq) from error
    members_b, variant_b = _in_slots(chosen.chosen_index, kept, spec, variant_counts=selection.variant_counts())
    is_scored = row.method is not schemas.Method.UNIFORM
    return Composed(
        batch=batch_table(
            row,
            candidates.take(pa.array(kept_K[members_b])),
            chosen,
            members_b,
            _own_losses(kept, members_b, spec),
            variant_b=variant_b,
        ),
        scores=score_table(row, candidates, chosen, kept_K, _losses_alone(row, kept, spec)),
        counts=_counts(
            candidates.column("source").to_pylist(),
            selected=kept_K[members_b],
            dropped=np.flatnonzero(~finite_B),
            capped=kept_K[_at_cap(kept, spec)],
        ),
        mean_chosen=float(chosen.score[members_b].mean()) if is_scored else None,
        mean_candidates=float(chosen.score.mean()) if is_scored else None,
    )


def _selection_spec(row: ScheduleRow, selection: schemas.SelectionSpec, seed: int) -> SelectionSpec:
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
        loss=selection.loss,
        probe_size=selection.probe_size,
        first_round=selection.first_round,
        repetition_cap=selection.repetition_cap,
        max_cosine=selection.max_cosine,
        precision=selection.precision,
    )


def _in_slots(
    in_choice_b: Indices, kept: Candidates, spec: SelectionSpec, *, variant_counts: Sequence[int]
) -> tuple[Indices, Indices]:
    """Return the chosen in the order of their slots, and their variants."""
    identity = {"uids": kept.uid[in_choice_b], "dataset_index": kept.dataset_index[in_choice_b]}
    slots_b, variant_b = in_slots(spec.seed, spec.seq, counts=variant_counts, **identity)
    return np.take(in_choice_b, slots_b), variant_b


def _own_losses(kept: Candidates, members_b: Indices, spec: SelectionSpec) -> dict[str, Array]:
    """Return the members' own conditional losses within the batch, under each model that embedded them."""
    return {
        name: own_conditional_loss(model.take(members_b), loss=spec.loss).numpy()
        for name, model in _models(kept).items()
    }


def _losses_alone(row: ScheduleRow, kept: Candidates, spec: SelectionSpec) -> dict[str, Array]:
    """Return what every candidate loses before any is chosen, under each model whose loss the criterion reads."""
    read = {"learner": row.criterion.uses_learner, "reference": row.criterion.uses_reference}
    models = {name: model for name, model in _models(kept).items() if row.method.reads_criterion and read[name]}
    if spec.loss == "softmax" and models:
        probe_m = probe_index(kept, spec)
        return {name: probe_loss(model, probe_m).numpy() for name, model in models.items()}
    return {name: diagonal_loss(model).numpy() for name, model in models.items()}


def _models(kept: Candidates) -> dict[str, DualEmbeddings]:
    given = {"learner": kept.learner, "reference": kept.reference}
    return {name: model for name, model in given.items() if model is not None}


def _at_cap(kept: Candidates, spec: SelectionSpec) -> npt.NDArray[np.bool_]:
    return kept.exclusions(spec).get("repetition_cap", np.zeros(len(kept), dtype=bool))


def _dual(found: RowEmbeddings, kept_K: Indices) -> DualEmbeddings:
    image_KD, text_KD = torch.from_numpy(found.image[kept_K]), torch.from_numpy(found.text[kept_K])
    return DualEmbeddings(image_KD, text_KD, found.logit_scale, found.logit_bias)


def _counts(sources: list[str], **positions: Indices) -> dict[str, SourceCounts]:
    """Return per source how many candidates there are, and how many of them stand at the positions of each name."""
    source_B = np.array(sources)
    return {
        source: SourceCounts(
            candidates=int((source_B == source).sum()),
            **{name: int((source_B[found] == source).sum()) for name, found in positions.items()},
        )
        for source in sorted(set(sources))
    }
