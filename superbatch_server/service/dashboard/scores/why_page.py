"""The page that answers: why was this row in this batch, or why not?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from superbatch_server.schemas.errors import Validation
from superbatch_server.service.dashboard.plot import number
from superbatch_server.service.dashboard.scores.asked import whole
from superbatch_server.service.dashboard.scores.cards import (
    Card,
    caption_of,
    card,
    fate_of,
    picture_address,
    why_address,
)
from superbatch_server.service.dashboard.scores.drawing import text_of
from superbatch_server.service.dashboard.scores.reader import JobReader, OpenBatch
from superbatch_server.service.dashboard.scores.rivals import Rank, Standing, standing_of
from superbatch_server.service.dashboard.scores.verdicts import absence, verdict
from superbatch_server.service.dashboard.scores.words import amount, scored_by, selected_by
from superbatch_server.service.scored_batches.earlier import MAX_BATCHES, nearest_candidacies
from superbatch_server.service.scored_batches.measures import quantity_of, values_of
from superbatch_server.service.scored_batches.row_places import RowPlace

_UID = re.compile(r"[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class Rival:
    """One line of the table of rivals."""

    dataset_index: int
    address: str
    picture: str
    caption: str
    fate: str
    score: str
    perturbed: str
    is_asked: bool


@dataclass(frozen=True, slots=True)
class WhyPage:
    """Ready to be drawn; without a row only the form is shown."""

    seq: int
    row: str
    oldest_seq: int
    newest_seq: int
    card: Card | None
    answer: str
    facts: list[tuple[str, str]]
    rivals: list[Rival]
    rivals_title: str
    not_chosen: list[Rival]
    not_chosen_title: str
    elsewhere: list[tuple[str, str]]


def read_why_page(reader: JobReader, query: Mapping[str, str]) -> WhyPage:
    """Return the page about row `row` (dataset_index or uid) and batch `seq`, the newest by default."""
    text = query.get("row", "").strip()
    if not reader.seqs:
        return _only("No batch is published yet.", reader, 0, text)
    asked = whole(query, "seq")
    opened = reader.open(reader.seqs[-1] if asked is None else asked)
    if not text:
        return _only("Ask about a row by its dataset_index or its uid.", reader, opened.seq, "")
    dataset_index, uid = _identity(text)
    place = opened.scores.place_of_index(dataset_index) if uid is None else opened.scores.place_of_uid(uid)
    if place is None:
        return _no_candidate(reader, opened, text, dataset_index, uid)
    return _candidate(reader, opened, place, text)


def _identity(text: str) -> tuple[int, bytes | None]:
    if _UID.fullmatch(text):
        return -1, bytes.fromhex(text)
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text), None
    raise Validation(
        f"row must be a dataset_index or a uid of 32 hexadecimal digits; got {text[:40]!r} (query). Correct it."
    )


def _only(answer: str, reader: JobReader, seq: int, row: str, **more: list[tuple[str, str]]) -> WhyPage:
    oldest, newest = (reader.seqs[0], reader.seqs[-1]) if reader.seqs else (0, 0)
    return WhyPage(seq, row, oldest, newest, None, answer, [], [], "", [], "", more.get("elsewhere", []))


def _candidate(reader: JobReader, opened: OpenBatch, place: int, text: str) -> WhyPage:
    scores, batch = opened.scores, opened.batch
    quantity = quantity_of(scores)
    standing = standing_of(scores, place, quantity)
    not_chosen = [other for other in standing.nearest_not_chosen if other not in standing.rivals]
    described = reader.describe(int(scores.dataset_index[other]) for other in {place, *standing.rivals, *not_chosen})
    in_round = f"round {standing.round} of {standing.num_rounds}"
    return WhyPage(
        seq=opened.seq,
        row=text,
        oldest_seq=reader.seqs[0],
        newest_seq=reader.seqs[-1],
        card=card(opened, place, described),
        answer=verdict(opened, place, standing),
        facts=_facts(opened, place, standing),
        rivals=_rivals(opened, standing.rivals, described, asked=place),
        rivals_title=f"Rivals in {in_round}, by score with noise" if batch.has_noise else f"Rivals in {in_round}",
        not_chosen=_rivals(opened, not_chosen, described, asked=place) if batch.is_scored else [],
        not_chosen_title="Nearest that were never chosen"
        + ("" if standing.is_comparable else f", as they stood in the last round ({standing.num_rounds})"),
        elsewhere=_elsewhere(reader, opened, int(scores.dataset_index[place])),
    )


def _facts(opened: OpenBatch, place: int, standing: Standing) -> list[tuple[str, str]]:
    scores, batch = opened.scores, opened.batch
    quantity = quantity_of(scores)
    facts = [("Scored by", scored_by(batch)), ("Selected", selected_by(batch))]
    if quantity is not None and standing.at_start is not None:
        value = number(float(values_of(scores, quantity)[place]))
        facts.append(("Before any was chosen", f"{quantity.formula} = {value}: {_rank_text(standing.at_start)}"))
    if standing.in_round is not None and batch.is_scored:
        among = "rows drawn in it or never chosen" if standing.is_comparable else "rows drawn in it"
        where = f"round {standing.round} of {standing.num_rounds}"
        facts.append(("Compared in", f"{where}: {_rank_text(standing.in_round)} {among}"))
        facts.append(("There", _score_text(opened, place)))
    if standing.threshold is not None and batch.is_scored:
        facts.append(("Lowest drawn in that round", text_of(standing.threshold)))
    facts.append(("uid", scores.uid(place)))
    return facts


def _rank_text(rank: Rank) -> str:
    return f"rank {rank.rank:,} of {rank.of:,}"


def _score_text(opened: OpenBatch, place: int) -> str:
    """Return the score and the noise of a candidate, as they were compared."""
    score, perturbed = float(opened.scores.score[place]), float(opened.scores.perturbed[place])
    if not opened.batch.has_noise:
        return f"score {number(score)}, no noise"
    weighted = opened.batch.row.gain * score
    return f"gain × score {number(weighted)}, noise {number(perturbed - weighted)}, together {number(perturbed)}"


def _rivals(opened: OpenBatch, places: Sequence[int], described: Mapping[int, RowPlace], *, asked: int) -> list[Rival]:
    scores, job_id = opened.scores, opened.batch.job.id
    if not opened.batch.is_scored:
        return []
    found = []
    for place in places:
        index = int(scores.dataset_index[place])
        found.append(
            Rival(
                dataset_index=index,
                address=why_address(job_id, opened.seq, index),
                picture=picture_address(job_id, index),
                caption=caption_of(described.get(index)),
                fate=fate_of(opened, place),
                score=number(float(scores.score[place])),
                perturbed=number(float(scores.perturbed[place])),
                is_asked=place == asked,
            )
        )
    return found


def _no_candidate(reader: JobReader, opened: OpenBatch, text: str, index: int, uid: bytes | None) -> WhyPage:
    if uid is not None:
        index = _index_of_uid(reader, opened.seq, uid)
    row = reader.describe([index]).get(index) if index >= 0 else None
    elsewhere = _elsewhere(reader, opened, index) if row is not None else []
    return _only(absence(opened, row, is_uid=uid is not None), reader, opened.seq, text, elsewhere=elsewhere)


def _index_of_uid(reader: JobReader, seq: int, uid: bytes) -> int:
    """Return the dataset_index of a uid that was a candidate in a batch near `seq`, -1 for none."""
    for other in _outwards(reader, seq):
        scores = reader.try_scores(other)
        place = scores.place_of_uid(uid) if scores else None
        if scores is not None and place is not None:
            return int(scores.dataset_index[place])
    return -1


def _outwards(reader: JobReader, seq: int) -> list[int]:
    near = sorted(reader.seqs[max(0, seq - MAX_BATCHES - reader.seqs.start) : seq + MAX_BATCHES - reader.seqs.start])
    return sorted((other for other in near if other != seq), key=lambda other: abs(other - seq))[:MAX_BATCHES]


def _elsewhere(reader: JobReader, opened: OpenBatch, dataset_index: int) -> list[tuple[str, str]]:
    """Return links to the batches before and after in which the row was a candidate, where they are near."""
    wanted, links = np.array([dataset_index]), []
    for word, seqs in (
        ("before", range(opened.seq - 1, reader.job.oldest_seq - 1, -1)),
        ("after", range(opened.seq + 1, reader.job.next_seq)),
    ):
        search = nearest_candidacies(wanted, seqs, reader.try_scores)
        if seen := search.found.get(dataset_index):
            did = "chosen" if seen.was_chosen else "passed over"
            links.append(
                (
                    f"The candidacy {word}: batch {seen.seq:,}, {did}",
                    why_address(reader.job.id, seen.seq, dataset_index),
                )
            )
        elif search.seqs:
            links.append((f"No candidate in the searched {amount(len(search.seqs), 'batch')} {word}.", ""))
    return links
