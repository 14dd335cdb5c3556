"""Examples of one batch: its best, worst, random and newly selected candidates.

Letters: B candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from superbatch_server.service.dashboard.scores.asked import whole
from superbatch_server.service.dashboard.scores.cards import Card, card, cards
from superbatch_server.service.dashboard.scores.reader import JobReader, OpenBatch
from superbatch_server.service.dashboard.scores.words import (
    amount,
    measured_by,
    missing_losses,
    not_scored,
    scored_by,
    selected_by,
)
from superbatch_server.service.scored_batches.earlier import Search, nearest_candidacies
from superbatch_server.service.scored_batches.measures import Counts, counts_of, quantity_of, values_of
from superbatch_server.service.scored_batches.row_places import RowPlace

SHOWN = 12
"""Cards of each group."""


@dataclass(frozen=True, slots=True)
class Group:
    """Cards that belong together; `empty` says why there are none."""

    id: str
    title: str
    note: str
    cards: list[Card]
    empty: str = ""


@dataclass(frozen=True, slots=True)
class ExamplesPage:
    """Ready to be drawn; without a batch only `notes` says something."""

    seq: int
    oldest_seq: int
    newest_seq: int
    draw: int
    how: str
    counts: Counts | None
    groups: list[Group]
    notes: list[str]


def read_examples_page(reader: JobReader, query: Mapping[str, str]) -> ExamplesPage:
    """Return the page of batch `seq`, the newest by default; `draw` seeds the random rows."""
    draw = whole(query, "draw") or 0
    if not reader.seqs:
        return ExamplesPage(0, 0, 0, draw, "", None, [], ["No batch is published yet."])
    asked = whole(query, "seq")
    opened = reader.open(reader.seqs[-1] if asked is None else asked)
    best, worst = best_and_worst(opened)
    random = random_places(opened, draw)
    search, fresh, first = newly_selected(reader, opened)
    shown = [*best, *worst, *random, *fresh[:SHOWN], *first[:SHOWN]]
    described = reader.describe(int(opened.scores.dataset_index[place]) for place in shown)
    quantity = quantity_of(opened.scores)
    ranked = f"by {quantity.formula}, before any row was chosen" if quantity else ""
    unscored = "" if quantity else "Nothing ranks these rows: they have no score."
    return ExamplesPage(
        seq=opened.seq,
        oldest_seq=reader.seqs[0],
        newest_seq=reader.seqs[-1],
        draw=draw,
        how=f"Scored by {scored_by(opened.batch)}. Selected: {selected_by(opened.batch)}.",
        counts=counts_of(opened.scores),
        groups=[
            Group("best", "Best candidates", f"The highest {ranked}.", cards(opened, best, described), unscored),
            Group("worst", "Worst candidates", f"The lowest {ranked}.", cards(opened, worst, described), unscored),
            Group(
                "random",
                "Random candidates",
                f"Drawn with seed {draw}: the same address shows the same rows.",
                cards(opened, random, described),
            ),
            _new_group(opened, search, fresh, first, described),
        ],
        notes=[
            note
            for note in (
                measured_by(quantity, reader.job.spec.selection) if quantity else not_scored(opened.batch),
                missing_losses(quantity) if quantity else "",
                _variants(reader),
            )
            if note
        ],
    )


def best_and_worst(opened: OpenBatch) -> tuple[list[int], list[int]]:
    """Return the places of the highest and the lowest candidates; of equal ones the first drawn comes first."""
    quantity = quantity_of(opened.scores)
    if quantity is None:
        return [], []
    values_B = values_of(opened.scores, quantity)
    order = np.argsort(values_B, kind="stable")
    order = order[np.isfinite(values_B[order])]
    best = np.argsort(-values_B, kind="stable")[: min(SHOWN, len(order))]
    return [int(place) for place in best], [int(place) for place in order[:SHOWN]]


def random_places(opened: OpenBatch, draw: int) -> list[int]:
    """Return the places of random candidates, the same for the same batch and seed."""
    generator = np.random.default_rng(np.random.SeedSequence(draw, spawn_key=(opened.seq,)))
    num = min(SHOWN, len(opened.scores))
    return [int(place) for place in generator.choice(len(opened.scores), size=num, replace=False)]


def newly_selected(reader: JobReader, opened: OpenBatch) -> tuple[Search, list[int], list[int]]:
    """Return the search, the chosen that were passed over when last a candidate, and those never seen in it.

    Both lists are places, best first.
    """
    chosen = np.flatnonzero(opened.scores.chosen)
    quantity = quantity_of(opened.scores)
    if quantity is not None:
        chosen = chosen[np.argsort(-values_of(opened.scores, quantity)[chosen], kind="stable")]
    earlier = range(opened.seq - 1, reader.job.oldest_seq - 1, -1)
    search = nearest_candidacies(opened.scores.dataset_index[chosen], earlier, reader.try_scores)
    index_of = {int(place): int(opened.scores.dataset_index[place]) for place in chosen}
    fresh = [place for place, row in index_of.items() if row in search.found and not search.found[row].was_chosen]
    first = [place for place, row in index_of.items() if row not in search.found]
    return search, fresh, first


def _new_group(
    opened: OpenBatch, search: Search, fresh: list[int], first: list[int], described: Mapping[int, RowPlace]
) -> Group:
    num_chosen, num_batches = int(opened.scores.chosen.sum()), len(search.seqs)
    where = (
        f"in the {amount(num_batches, 'batch')} before it that {'was' if num_batches == 1 else 'were'} searched"
        if num_batches
        else "before it"
    )
    said = f"{len(fresh):,} of the {num_chosen:,} selected were passed over when they were last a candidate."
    if first:
        said = f"{said[:-1]}; {len(first):,} were no candidate {where}."
    index = opened.scores.dataset_index
    made = [
        card(opened, place, described, note=f"passed over in batch {search.found[int(index[place])].seq:,}")
        for place in fresh[:SHOWN]
    ]
    made += [card(opened, place, described, note=f"no candidate {where}") for place in first[: SHOWN - len(made)]]
    return Group("new", "Newly selected", said, made, "All of them were chosen when they were last a candidate, too.")


def _variants(reader: JobReader) -> str:
    variants = reader.job.spec.selection.variants
    if len(variants) < 2:
        return ""
    return (
        f"Each batch shows its rows in {len(variants)} variants (Flexi). Rows are scored in full, so losses and scores "
        "do not depend on the variant; it is in the batch list."
    )
