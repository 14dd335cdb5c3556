"""The quantity over the batches that were read, and over the rounds inside one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from superbatch_server.service.dashboard.plot import number
from superbatch_server.service.dashboard.scores.drawing import (
    Chart,
    Drawing,
    Key,
    Stroke,
    Table,
    axis,
    count_axis,
    dots,
    line,
    text_of,
)
from superbatch_server.service.scored_batches.measures import Means, Quantity, Round

_OTHER_MEAN = (
    "The mean score in the table is another quantity: it is given the rows that were already chosen. "
    "It is what the overview and /stats call learnability."
)


@dataclass(frozen=True, slots=True)
class BatchPoint:
    """One batch that was read: means of the quantity over pool and selected, and the means that /stats has."""

    seq: int
    generation: int
    pool: float
    selected: float
    means: Means


def over_seq(points: Sequence[BatchPoint], quantity: Quantity) -> Chart | None:
    """Return pool and selected over seq; None for fewer than one batch."""
    if not points:
        return None
    x = count_axis("batch (seq)", points[0].seq, points[-1].seq)
    y = axis(quantity.formula, [value for point in points for value in (point.pool, point.selected)])
    num_above = sum(point.selected > point.pool for point in points)
    finding = (
        f"In {num_above:,} of {len(points):,} batches the selected exceed the pool in {quantity}; "
        f"by {number(points[0].selected - points[0].pool)} in batch {points[0].seq:,} "
        f"and {number(points[-1].selected - points[-1].pool)} in batch {points[-1].seq:,}"
    )
    pool, selected = ([(point.seq, getattr(point, name)) for point in points] for name in ("pool", "selected"))
    return Chart(
        id="over-seq",
        finding=finding,
        drawing=Drawing(
            x=x,
            y=y,
            summary=finding,
            strokes=(
                Stroke(line(pool, x, y), "line second"),
                Stroke(line(selected, x, y), "line"),
                Stroke(dots(pool, x, y), "dots second"),
                Stroke(dots(selected, x, y), "dots"),
            ),
            keys=(Key("batch", ""), Key("super-batch", "second")),
        ),
        table=_table_of_batches(points),
        note="" if quantity is Quantity.SCORE else _OTHER_MEAN,
    )


def per_round(rounds: Sequence[Round], *, pool: float | None, quantity: Quantity, seq: int) -> Chart | None:
    """Return score and quantity of the rows that each round drew; None where the batch has a single round."""
    given = [(one.number, one.mean_score) for one in rounds if one.mean_score is not None]
    alone = [(one.number, one.mean_alone) for one in rounds if one.mean_alone is not None]
    if len(rounds) < 2 or not given:
        return None
    levels = [value for _, value in [*given, *alone]] + ([pool] if pool is not None else [])
    x, y = count_axis("round", 1, len(rounds)), axis("mean of the rows drawn", levels)
    finding = (
        f"In batch {seq:,} the rows of round 1 have a mean score of {number(given[0][1])}, "
        f"those of round {given[-1][0]} {number(given[-1][1])}, each given the rounds before"
    )
    mean = [] if pool is None else [Stroke(line([(x.ticks[0], pool), (x.ticks[-1], pool)], x, y), "line dashed")]
    return Chart(
        id="rounds",
        finding=finding,
        drawing=Drawing(
            x=x,
            y=y,
            summary=finding,
            strokes=(
                *mean,
                Stroke(line(alone, x, y), "line second"),
                Stroke(line(given, x, y), "line"),
                Stroke(dots(given, x, y), "dots"),
            ),
            keys=(
                Key("score given the batch so far", ""),
                *((Key(f"{quantity} before the batch", "second"),) if alone and quantity is not Quantity.SCORE else ()),
                *((Key(f"{quantity} of the super-batch", "dashed"),) if mean else ()),
            ),
        ),
        table=_table_of_rounds(rounds, quantity),
    )


def _table_of_batches(points: Sequence[BatchPoint]) -> Table:
    columns = ("Batch", "Generation", "Super-batch", "Batch", "Mean score, super-batch", "Mean score, batch")
    rows = (
        (
            f"{point.seq:,}",
            f"{point.generation:,}",
            number(point.pool),
            number(point.selected),
            text_of(point.means.score_super_batch),
            text_of(point.means.score_batch),
        )
        for point in points
    )
    return Table(columns, tuple(rows))


def _table_of_rounds(rounds: Sequence[Round], quantity: Quantity) -> Table:
    columns = ("Round", "Rows", "Mean score", f"Mean {quantity} before", "Lowest drawn, with noise")
    rows = (
        (
            f"{one.number}",
            f"{one.rows:,}",
            text_of(one.mean_score),
            text_of(None if quantity is Quantity.SCORE else one.mean_alone),
            text_of(one.lowest_perturbed),
        )
        for one in rounds
    )
    return Table(columns, tuple(rows))
