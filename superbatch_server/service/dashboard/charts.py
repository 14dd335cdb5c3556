"""The charts of a job: the score of what was chosen against what was offered, staleness, and generation."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.selection import Criterion, Method
from superbatch_server.service.dashboard.history import History
from superbatch_server.service.dashboard.plot import Plot, Series, plot

STAND_INS = ("easy_reference", "uniform")


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot, and a sentence below it where something needs saying."""

    plot: Plot
    note: str = ""


def charts(history: History, spec: CurateSpec) -> list[Chart]:
    """Return the charts that say something for this job; none before the first batch."""
    made = [_score(history, spec)]
    if spec.pushes:
        made += [_staleness(history, spec), _generation(history)]
    return [chart for chart in made if chart is not None]


def _score(history: History, spec: CurateSpec) -> Chart | None:
    """Draw batches scored by the criterion as submitted, and leave out those scored by a stand-in.

    The score of a stand-in is another quantity (easy_reference is a loss, learnability a difference of two), so the two
    do not belong on one axis.
    """
    if spec.selection.methods() == {Method.UNIFORM}:
        return None
    other = [pair for pair in history.rule_ranges() if pair[1] in STAND_INS and pair[1] != spec.selection.criterion]
    hidden = [seqs for seqs, _ in other]
    series = (
        Series("batch", "", _without(history.mean_batch, hidden)),
        Series("super-batch", "second", _without(history.mean_super_batch, hidden)),
    )
    drawn = plot(f"Mean {_criterion_word(spec)}", series, is_count=False)
    return None if drawn is None else Chart(drawn, _not_drawn(other))


def _staleness(history: History, spec: CurateSpec) -> Chart | None:
    series = Series("staleness", "", history.staleness, merge="max", is_step=True)
    drawn = plot("Staleness in batches", [series], is_count=True)
    return (
        None
        if drawn is None
        else Chart(drawn, f"At most {spec.refresh.max_staleness:,} allowed; then: {spec.refresh.on_stale}.")
    )


def _generation(history: History) -> Chart | None:
    series = Series("generation", "", history.generation, merge="last", is_step=True)
    drawn = plot("Generation", [series], is_count=True)
    return None if drawn is None else Chart(drawn, "Learner refreshes so far; 0 is before the first checkpoint.")


def _without(column: array[float], hidden: list[range]) -> array[float]:
    kept = column[:]
    for seqs in hidden:
        kept[seqs.start : seqs.stop] = array("d", [math.nan]) * len(seqs)
    return kept


def _criterion_word(spec: CurateSpec) -> str:
    criterion = spec.selection.criterion if spec.selection.criteria() else None
    return criterion.value.replace("_", " ") if isinstance(criterion, Criterion) else "score"


def _not_drawn(other: list[tuple[range, str]]) -> str:
    if not other:
        return ""
    num_batches = sum(len(seqs) for seqs, _ in other)
    rules = " and ".join(sorted({rule.replace("_", " ") for _, rule in other}))
    return f"Not drawn: {num_batches:,} {'batch' if num_batches == 1 else 'batches'} scored by {rules} instead."
