"""A published batch as the API answers it: its head, counts and means, and some of its candidates."""

from __future__ import annotations

import math
from collections.abc import Callable

from sqlalchemy import Connection

from superbatch_server.schemas.batches import BatchCounts, BatchMeans, CandidateRow, ScoredBatch
from superbatch_server.service.context import Deployment
from superbatch_server.service.scored_batches.measures import counts_of, means_of
from superbatch_server.service.scored_batches.published import PublishedBatch
from superbatch_server.service.scored_batches.scores import Fate, Scores


def scored_batch(
    connection: Connection,
    deployment: Deployment,
    batch: PublishedBatch,
    wanted: range,
    *,
    with_captions: bool,
    token_of: Callable[[int], str],
) -> ScoredBatch:
    """Return a batch with the candidates at the wanted places of the draw, and the token of those that follow.

    Raises: Unavailable.
    """
    scores = deployment.scored_batches.scores.read(deployment.store, batch)
    places = range(min(wanted.start, len(scores)), min(wanted.stop, len(scores)))
    rows = _rows(connection, deployment, batch, scores, places, with_captions=with_captions)
    return _answer(batch, scores, rows, token_of(places.stop) if places.stop < len(scores) else None)


def _answer(batch: PublishedBatch, scores: Scores, rows: list[CandidateRow], next_token: str | None) -> ScoredBatch:
    row, selection, used = batch.row, batch.job.spec.selection, batch.checkpoint
    return ScoredBatch(
        job=batch.job.id,
        seq=batch.seq,
        rule=row.rule,
        checkpoint=used,
        generation=batch.generation,
        staleness=batch.seq - used.trained_seq if used else None,
        method=row.method,
        criterion=batch.criterion,
        loss=selection.loss,
        f=row.f,
        B=row.B,
        b=selection.b,
        N=selection.N,
        gain=row.gain,
        weights=row.weights,
        sampling=selection.sampling,
        counts=BatchCounts(**vars(counts_of(scores))),
        means=BatchMeans(**vars(means_of(scores))),
        rows=rows,
        next_page_token=next_token,
    )


def _rows(
    connection: Connection,
    deployment: Deployment,
    batch: PublishedBatch,
    scores: Scores,
    places: range,
    *,
    with_captions: bool,
) -> list[CandidateRow]:
    rows, dataset_id = deployment.scored_batches.rows, batch.job.dataset_id
    shards = rows.shards(connection, dataset_id)
    indexes = [int(index) for index in scores.dataset_index[places.start : places.stop]]
    described = rows.describe(connection, deployment.store, dataset_id, indexes) if with_captions else {}
    found = []
    for place, dataset_index in zip(places, indexes, strict=True):
        shard, fate = shards.find(dataset_index), scores.fate(place)
        found.append(
            CandidateRow(
                dataset_index=dataset_index,
                uid=scores.uid(place),
                source=shard.source if shard else None,
                fate=fate.value,
                round=int(scores.round[place]) if fate is Fate.CHOSEN else None,
                score=_finite(scores.score[place]),
                perturbed_score=_finite(scores.perturbed[place]),
                loss_learner=_finite(scores.loss_learner[place]),
                loss_reference=_finite(scores.loss_reference[place]),
                caption=described[dataset_index].caption if dataset_index in described else None,
            )
        )
    return found


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
