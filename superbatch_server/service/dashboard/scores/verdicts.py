"""Why a candidate was chosen or not, in one or two sentences."""

from __future__ import annotations

from superbatch_server.schemas.selection import SelectionSpec
from superbatch_server.service.dashboard.plot import number
from superbatch_server.service.dashboard.scores.reader import OpenBatch
from superbatch_server.service.dashboard.scores.rivals import Standing
from superbatch_server.service.dashboard.scores.words import amount
from superbatch_server.service.scored_batches.row_places import RowPlace
from superbatch_server.service.scored_batches.scores import Fate

OK = "ok"


def verdict(opened: OpenBatch, place: int, standing: Standing) -> str:
    """Return why the candidate at a place was chosen, or why not."""
    fate = opened.scores.fate(place)
    if fate is Fate.CHOSEN:
        return _chosen(opened, place, standing)
    if fate is Fate.DROPPED:
        return (
            "It was dropped before the choice: its embedding by this learner was not finite. "
            "Other rows of the batch were not affected."
        )
    if fate is Fate.EXCLUDED:
        return f"A rule kept it out, whatever its score: {_rules(opened.batch.job.spec.selection)}."
    return _not_chosen(opened, place, standing)


def absence(opened: OpenBatch, row: RowPlace | None, *, is_uid: bool) -> str:
    """Return why a row was no candidate of a batch; `row` is None for one that is not known."""
    if row is None and is_uid:
        return (
            f"No candidate of batch {opened.seq:,}, or of the batches around it, has this uid. "
            "Ask by dataset_index to know more."
        )
    if row is None:
        return "The data set has no row of this dataset_index."
    if row.is_indexed and row.verdict != OK:
        return f"It was quarantined by the index pass ({row.verdict.replace('_', ' ')}), so it is never a candidate."
    return (
        f"It was no candidate of batch {opened.seq:,}: the draw walks through the data set, and each eligible row is a "
        "candidate once per pass."
    )


def _chosen(opened: OpenBatch, place: int, standing: Standing) -> str:
    scores, batch = opened.scores, opened.batch
    if not batch.is_scored:
        return (
            f"It was drawn at random, as {standing.drawn:,} of {len(scores):,} candidates were: the batch is uniform."
        )
    score, perturbed = float(scores.score[place]), float(scores.perturbed[place])
    where = f"round {standing.round} of {standing.num_rounds}"
    among = "the row" if standing.drawn == 1 else f"one of the {standing.drawn:,} rows"
    said = f"It was {among} drawn in {where}, with a score of {number(score)}"
    if batch.has_noise:
        said += f" ({number(perturbed)} with noise)"
    return f"{said}. No candidate that was still free had more in that round."


def _not_chosen(opened: OpenBatch, place: int, standing: Standing) -> str:
    scores, batch = opened.scores, opened.batch
    if not batch.is_scored:
        return f"The draw did not fall on it: the batch is uniform, {standing.drawn:,} of {len(scores):,} candidates."
    perturbed = float(scores.perturbed[place])
    noise = " with noise" if batch.has_noise else ""
    said = (
        f"It was never among the highest. In the last round ({standing.num_rounds}) it had {number(perturbed)}{noise}"
    )
    if standing.threshold is not None:
        gap = number(standing.threshold - perturbed)
        said += f", and the lowest row drawn had {number(standing.threshold)}: {gap} too little"
    rank = (
        f" It was number {standing.in_round.rank:,} for {amount(standing.drawn, 'place')}." if standing.in_round else ""
    )
    return f"{said}.{rank}"


def _rules(selection: SelectionSpec) -> str:
    rules = ["the same picture may not be in a batch twice"]
    if selection.repetition_cap is not None:
        rules.insert(0, f"a row may be chosen {amount(selection.repetition_cap, 'time')} in the job")
    if selection.max_cosine is not None:
        rules.insert(0, f"no two pictures of a batch may have a cosine of {selection.max_cosine:g} or more")
    return "; or ".join(rules)
