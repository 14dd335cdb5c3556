"""How pool and selected lie: the quantity that both share, and learner loss against reference loss.

Letters: n candidates of all batches read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from superbatch_server.service.dashboard.plot import HEIGHT, WIDTH, nice_ticks, number
from superbatch_server.service.dashboard.scores.drawing import Axis, Cell, Chart, Drawing, Key, Stroke, Table, steps
from superbatch_server.service.scored_batches.measures import Quantity
from superbatch_server.service.scored_batches.scores import Bools, Floats

NUM_BARS = 30
NUM_CELLS = 24
NUM_TABLE_CELLS = 6
OUTSIDE_PERCENT = 0.5
"""Share of the candidates at either end that is drawn at the edge, so that a few far ones do not squeeze the rest."""

LIFT_LEVELS = (
    (0.0, "none selected", "lift-0"),
    (0.5, "below half", "lift-1"),
    (0.8, "half to 0.8", "lift-2"),
    (1.25, "as the pool", "lift-3"),
    (2.0, "1.25 to 2 times", "lift-4"),
    (3.0, "2 to 3 times", "lift-5"),
    (np.inf, "3 times and more", "lift-6"),
)
"""(largest lift of the level, words, style); lift = share selected in a cell / share selected of all."""

_SIZES = ((10, 1.0), (3, 0.72), (1, 0.46))
"""(at least so many candidates, side of the square relative to its cell)."""


_SAME_QUANTITY = (
    "Both are the same quantity: measured before any row of the batch was chosen. "
    "The pool is every scored candidate, the selected among them."
)
_SCORES_DIFFER = (
    "The two are not measured alike: a selected row has its score from the round of its choice, every other row from "
    "the last round, when more of the batch was known."
)


def distribution(values_n: Floats, chosen_n: Bools, quantity: Quantity) -> Chart | None:
    """Return the shares of pool and selected over the quantity; None where no value is finite."""
    finite_n = np.isfinite(values_n)
    pool, selected = values_n[finite_n], values_n[finite_n & chosen_n]
    if not len(pool) or not len(selected):
        return None
    x = _robust_axis(quantity.formula, pool)
    edges = np.linspace(x.ticks[0], x.ticks[-1], NUM_BARS + 1)
    share_pool, share_selected = (_shares(part, edges) for part in (pool, selected))
    highest = max(share_pool.max(), share_selected.max())
    y = Axis("% of the rows", tuple(nice_ticks(0.0, 100 * float(highest))))
    mean_pool, mean_selected = (float(part.mean(dtype=np.float64)) for part in (pool, selected))
    bounds = [x.share(float(edge)) for edge in edges]
    finding = (
        f"Selected rows have a mean {quantity} of {number(mean_selected)}, "
        f"the pool {number(mean_pool)}: {_difference(mean_selected - mean_pool)}"
    )
    return Chart(
        id="distribution",
        finding=finding,
        drawing=Drawing(
            x=x,
            y=y,
            summary=finding,
            strokes=(
                Stroke(steps([100 * share for share in share_pool], bounds, y), "line second"),
                Stroke(steps([100 * share for share in share_selected], bounds, y), "line"),
            ),
            keys=(Key(f"selected, {len(selected):,}", ""), Key(f"pool, {len(pool):,}", "second")),
        ),
        table=Table(
            (quantity.formula, "Pool", "Selected"),
            tuple(
                (f"{number(float(edges[i]))} to {number(float(edges[i + 1]))}", f"{pool_:.1%}", f"{selected_:.1%}")
                for i, (pool_, selected_) in enumerate(zip(share_pool, share_selected, strict=True))
            ),
        ),
        note=_SCORES_DIFFER if quantity is Quantity.SCORE else _SAME_QUANTITY,
    )


def loss_map(learner_n: Floats, reference_n: Floats, chosen_n: Bools) -> Chart | None:
    """Return the 2-D histogram of both losses, coloured by selected over pool; None where a loss is missing."""
    finite_n = np.isfinite(learner_n) & np.isfinite(reference_n)
    learner, reference, chosen = learner_n[finite_n], reference_n[finite_n], chosen_n[finite_n]
    if not chosen.any():
        return None
    x, y = _robust_axis("learner loss", learner), _robust_axis("reference loss", reference)
    pool_CC = _counts(learner, reference, x, y, NUM_CELLS)
    selected_CC = _counts(learner[chosen], reference[chosen], x, y, NUM_CELLS)
    overall = len(learner[chosen]) / len(learner)
    above = learner > reference
    shares = [_share(chosen, above), _share(chosen, ~above)]
    finding = (
        f"Of the rows where the learner loses more than the reference, {shares[0]} were selected; "
        f"of the others, {shares[1]}"
    )
    return Chart(
        id="losses",
        finding=finding,
        drawing=Drawing(
            x=x,
            y=y,
            summary=f"{finding}. Of all candidates {overall:.1%} were selected",
            cells=tuple(_cells(pool_CC, selected_CC, overall)),
            strokes=(_diagonal(x, y),),
            keys=(*(Key(words, style) for _, words, style in LIFT_LEVELS), Key("equal losses", "dashed")),
            is_tall=True,
        ),
        table=_coarse_table(learner, reference, chosen, x, y),
        note=f"Colour: share selected in the cell, over the {overall:.1%} of all. Smaller squares hold fewer than 10, "
        f"or fewer than 3, candidates. The outermost {OUTSIDE_PERCENT:g} % at either end are drawn at the edge.",
    )


def _robust_axis(label: str, values: Floats) -> Axis:
    low, high = (float(value) for value in np.percentile(values, [OUTSIDE_PERCENT, 100 - OUTSIDE_PERCENT]))
    return Axis(label, tuple(nice_ticks(low, high)))


def _shares(values: Floats, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    return np.asarray(counts / len(values), dtype=np.float64)


def _counts(learner: Floats, reference: Floats, x: Axis, y: Axis, num_cells: int) -> npt.NDArray[np.int64]:
    """Return counts[column, row]; values beyond an axis are counted at its end."""
    edges_x, edges_y = (np.linspace(one.ticks[0], one.ticks[-1], num_cells + 1) for one in (x, y))
    clipped = np.clip(learner, edges_x[0], edges_x[-1]), np.clip(reference, edges_y[0], edges_y[-1])
    counts, _, _ = np.histogram2d(*clipped, bins=(edges_x, edges_y))
    return np.asarray(counts, dtype=np.int64)


def _cells(pool_CC: npt.NDArray[np.int64], selected_CC: npt.NDArray[np.int64], overall: float) -> list[Cell]:
    width, height = WIDTH / NUM_CELLS, HEIGHT / NUM_CELLS
    found = []
    for column, row in zip(*np.nonzero(pool_CC), strict=True):
        pool, selected = int(pool_CC[column, row]), int(selected_CC[column, row])
        side = next(side for least, side in _SIZES if pool >= least)
        inset = (1 - side) / 2 + 0.03
        found.append(
            Cell(
                x=round(width * (int(column) + inset), 1),
                y=round(height * (NUM_CELLS - 1 - int(row) + inset), 2),
                width=round(width * (1 - 2 * inset), 1),
                height=round(height * (1 - 2 * inset), 2),
                style=_level(selected / pool / overall),
            )
        )
    return found


def _level(lift: float) -> str:
    return next(style for largest, _, style in LIFT_LEVELS if lift <= largest)


def _diagonal(x: Axis, y: Axis) -> Stroke:
    low, high = max(x.ticks[0], y.ticks[0]), min(x.ticks[-1], y.ticks[-1])
    if low >= high:
        return Stroke("", "line dashed")
    places = [(WIDTH * x.share(value), HEIGHT * (1 - y.share(value))) for value in (low, high)]
    return Stroke(
        "L".join(f"{'M' if i == 0 else ''}{px:.1f} {py:.2f}" for i, (px, py) in enumerate(places)), "line dashed"
    )


def _coarse_table(learner: Floats, reference: Floats, chosen: Bools, x: Axis, y: Axis) -> Table:
    pool = _counts(learner, reference, x, y, NUM_TABLE_CELLS)
    selected = _counts(learner[chosen], reference[chosen], x, y, NUM_TABLE_CELLS)
    edges_x, edges_y = (np.linspace(one.ticks[0], one.ticks[-1], NUM_TABLE_CELLS + 1) for one in (x, y))
    columns = tuple(f"learner {_span(edges_x, i)}" for i in range(NUM_TABLE_CELLS))
    rows = tuple(
        (f"reference {_span(edges_y, j)}", *(_of(int(selected[i, j]), int(pool[i, j])) for i in range(NUM_TABLE_CELLS)))
        for j in reversed(range(NUM_TABLE_CELLS))
    )
    return Table(("Selected of candidates", *columns), rows)


def _of(selected: int, pool: int) -> str:
    return f"{selected:,} of {pool:,}" if pool else "–"


def _span(edges: npt.NDArray[np.float64], i: int) -> str:
    return f"{number(float(edges[i]))} to {number(float(edges[i + 1]))}"


def _share(chosen: Bools, within: Bools) -> str:
    return f"{chosen[within].mean():.1%}" if within.any() else "none (there are none)"


def _difference(value: float) -> str:
    return f"{number(abs(value))} {'more' if value >= 0 else 'less'}"
