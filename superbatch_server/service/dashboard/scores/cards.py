"""One candidate as a card: picture, caption, both losses, score, round, source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from superbatch_server.service.dashboard.plot import number
from superbatch_server.service.dashboard.scores.reader import OpenBatch
from superbatch_server.service.scored_batches.row_places import RowPlace
from superbatch_server.service.scored_batches.scores import Fate

NO_CAPTION = "no caption"


@dataclass(frozen=True, slots=True)
class Card:
    """Ready to be drawn: `numbers` are those that are known, `note` is a line of its own below them."""

    dataset_index: int
    caption: str
    source: str
    picture: str
    why: str
    fate: str
    numbers: tuple[tuple[str, str], ...]
    note: str = ""


def card(opened: OpenBatch, place: int, described: Mapping[int, RowPlace], *, note: str = "") -> Card:
    """Return the card of the candidate at a place."""
    scores, job = opened.scores, opened.batch.job
    dataset_index = int(scores.dataset_index[place])
    known = (
        ("learner loss", float(scores.loss_learner[place])),
        ("reference loss", float(scores.loss_reference[place])),
        ("score", float(scores.score[place])),
    )
    return Card(
        dataset_index=dataset_index,
        caption=caption_of(described.get(dataset_index)),
        source=source_of(described.get(dataset_index)),
        picture=picture_address(job.id, dataset_index),
        why=why_address(job.id, opened.seq, dataset_index),
        fate=fate_of(opened, place),
        numbers=tuple((name, number(value)) for name, value in known if math.isfinite(value)),
        note=note,
    )


def cards(opened: OpenBatch, places: Sequence[int], described: Mapping[int, RowPlace]) -> list[Card]:
    """Return the cards of several candidates."""
    return [card(opened, place, described) for place in places]


def caption_of(row: RowPlace | None) -> str:
    """Return a row's caption, or why there is none."""
    if row is None:
        return "not a row of the data set"
    return row.caption or (NO_CAPTION if row.is_indexed else "its index file cannot be read")


def source_of(row: RowPlace | None) -> str:
    """Return a row's source."""
    return row.shard.source if row else "–"


def fate_of(opened: OpenBatch, place: int) -> str:
    """Return what became of a candidate, in two or three words."""
    fate = opened.scores.fate(place)
    if fate is Fate.CHOSEN:
        return f"round {opened.scores.round[place]}" if opened.batch.is_scored else "chosen"
    return {Fate.EXCLUDED: "left out by a rule", Fate.DROPPED: "dropped"}.get(fate, "not chosen")


def picture_address(job_id: str, dataset_index: int) -> str:
    """Return where a row's picture is."""
    return f"/jobs/{job_id}/pictures/{dataset_index}"


def why_address(job_id: str, seq: int, row: int | str) -> str:
    """Return where the page about a row in a batch is."""
    return f"/jobs/{job_id}/why?seq={seq}&row={row}"
