"""The page about learnability: pool against selected, both losses, over seq, and per round of one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from superbatch_server.service.dashboard.plot import number
from superbatch_server.service.dashboard.scores.asked import whole
from superbatch_server.service.dashboard.scores.curves import BatchPoint, over_seq, per_round
from superbatch_server.service.dashboard.scores.drawing import Chart
from superbatch_server.service.dashboard.scores.histograms import distribution, loss_map
from superbatch_server.service.dashboard.scores.reader import JobReader, OpenBatch
from superbatch_server.service.dashboard.scores.words import amount, measured_by, missing_losses, not_scored
from superbatch_server.service.scored_batches.measures import (
    Quantity,
    mean,
    means_of,
    quantity_of,
    rounds_of,
    values_of,
)
from superbatch_server.service.scored_batches.published import spread_seqs

MAX_BATCHES = 48
MAX_ROWS = 600_000
"""Candidates read for one page, so that a job of huge super-batches costs no more than one of small ones."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its name, and what stands small below it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class LearnabilityPage:
    """Ready to be drawn; `notes` say what is not shown and why."""

    start: int
    last: int
    seq: int
    oldest_seq: int
    newest_seq: int
    read_seqs: str
    measured: str
    figures: list[Figure]
    charts: list[Chart]
    notes: list[str]


def read_learnability_page(reader: JobReader, query: Mapping[str, str]) -> LearnabilityPage:
    """Return the page for the batches `from` .. `to` and the rounds of batch `seq`."""
    if not reader.seqs:
        return LearnabilityPage(0, 0, 0, 0, 0, "", "", [], [], ["No batch is published yet."])
    start, last = _range(reader, query)
    seqs = _to_read(reader, start, last)
    opened = [found for seq in seqs if (found := reader.try_open(seq))]
    quantity = next((kind for found in reversed(opened) if (kind := quantity_of(found.scores))), None)
    alike = [found for found in opened if quantity and quantity_of(found.scores) is quantity]
    asked_seq = whole(query, "seq")
    seq = min(max(asked_seq if asked_seq is not None else last, reader.seqs[0]), reader.seqs[-1])
    one_loss = missing_losses(quantity) if quantity not in (None, Quantity.LEARNABILITY) else ""
    notes = [reader.read_note(seqs), *_left_out(opened, quantity), one_loss and f"{one_loss} No map of both losses."]
    charts = _charts(alike, quantity) if quantity else []
    rounds, why_not = _rounds(reader, seq)
    return LearnabilityPage(
        start=start,
        last=last,
        seq=seq,
        oldest_seq=reader.seqs[0],
        newest_seq=reader.seqs[-1],
        read_seqs=_which(seqs, alike, num_asked=last + 1 - start),
        measured=measured_by(quantity, reader.job.spec.selection) if quantity else "",
        figures=_figures(alike, quantity) if quantity else [],
        charts=[chart for chart in (*charts, rounds) if chart is not None],
        notes=[note for note in (*notes, why_not) if note],
    )


def _range(reader: JobReader, query: Mapping[str, str]) -> tuple[int, int]:
    """Return the first and the last batch asked for, inside of what is kept."""
    first, newest = reader.seqs[0], reader.seqs[-1]
    last = whole(query, "to")
    last = newest if last is None else min(max(last, first), newest)
    start = whole(query, "from")
    start = first if start is None else min(max(start, first), last)
    return start, last


def _to_read(reader: JobReader, start: int, last: int) -> list[int]:
    newest = reader.try_open(last)
    rows = len(newest.scores) if newest else 1
    return spread_seqs(start, last + 1, at_most=max(1, min(MAX_BATCHES, MAX_ROWS // max(1, rows))))


def _charts(alike: Sequence[OpenBatch], quantity: Quantity) -> list[Chart | None]:
    values_n = np.concatenate([values_of(found.scores, quantity) for found in alike])
    chosen_n = np.concatenate([found.scores.chosen for found in alike])
    learner_n = np.concatenate([found.scores.loss_learner for found in alike])
    reference_n = np.concatenate([found.scores.loss_reference for found in alike])
    points = [point for found in alike if (point := _point(found, quantity))]
    return [
        distribution(values_n, chosen_n, quantity),
        over_seq(points, quantity),
        loss_map(learner_n, reference_n, chosen_n),
    ]


def _point(found: OpenBatch, quantity: Quantity) -> BatchPoint | None:
    scores = found.scores
    values = values_of(scores, quantity)
    pool, selected = mean(values, np.ones(len(scores), dtype=bool)), mean(values, scores.chosen)
    if pool is None or selected is None:
        return None
    return BatchPoint(found.seq, found.batch.generation, pool, selected, means_of(scores))


def _rounds(reader: JobReader, seq: int) -> tuple[Chart | None, str]:
    found = reader.try_open(seq)
    if found is None:
        return None, reader.read_note([seq])
    quantity = quantity_of(found.scores)
    if quantity is None:
        return None, not_scored(found.batch)
    values = values_of(found.scores, quantity)
    pool = mean(values, np.ones(len(values), dtype=bool))
    chart = per_round(rounds_of(found.scores, quantity), pool=pool, quantity=quantity, seq=seq)
    method = found.batch.row.method.value.replace("_", " ")
    one_round = f"Batch {seq:,} was chosen in a single round ({method}), so there are no rounds to compare."
    return chart, "" if chart else one_round


def _left_out(opened: Sequence[OpenBatch], quantity: Quantity | None) -> list[str]:
    """Return a sentence for each kind of batch that was read and is not in the charts."""
    unscored = [found for found in opened if quantity_of(found.scores) is None]
    said = [not_scored(unscored[0].batch, num_batches=len(unscored))] if unscored else []
    others = Counter(kind for found in opened if (kind := quantity_of(found.scores)) and kind is not quantity)
    said += [
        f"{num:,} of the batches read have another quantity ({kind.formula}), and are left out of the charts."
        for kind, num in others.items()
    ]
    dropped = sum(int(found.scores.dropped.sum()) for found in opened)
    if dropped:
        said.append(
            f"{dropped:,} candidates were dropped, because their learner embedding was not finite; they are in no mean."
        )
    return said


def _which(read: Sequence[int], alike: Sequence[OpenBatch], *, num_asked: int) -> str:
    if not alike:
        return ""
    num_rows = sum(len(found.scores) for found in alike)
    said = f"Read: batch {read[0]:,}"
    if num_asked > 1:
        spread = "all" if len(read) == num_asked else f"{len(read):,}, evenly spread,"
        said = f"Read: {spread} of the {num_asked:,} batches from {read[0]:,} to {read[-1]:,}"
    return f"{said}. In the charts: {amount(len(alike), 'batch')}, {amount(num_rows, 'candidate')}."


def _figures(alike: Sequence[OpenBatch], quantity: Quantity) -> list[Figure]:
    values_n = np.concatenate([values_of(found.scores, quantity) for found in alike])
    chosen_n = np.concatenate([found.scores.chosen for found in alike])
    pool, selected = mean(values_n, np.ones(len(values_n), dtype=bool)), mean(values_n, chosen_n)
    if pool is None or selected is None:
        return []
    higher = values_n[chosen_n & np.isfinite(values_n)] > np.nanmedian(values_n)
    return [
        Figure("Selected", number(selected), f"mean {quantity}"),
        Figure("Pool", number(pool), f"mean {quantity}"),
        Figure("Difference", number(selected - pool), "selected less pool"),
        Figure("Above the median", f"{higher.mean():.0%}", "of the selected"),
        Figure("Rows", f"{int(chosen_n.sum()):,}", f"selected of {len(chosen_n):,} read"),
    ]
