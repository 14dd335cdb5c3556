"""The page that compares two generations, or two batches, over the rows that both scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from superbatch_server.schemas.errors import Validation
from superbatch_server.service.dashboard.plot import number
from superbatch_server.service.dashboard.scores.cards import Card, card
from superbatch_server.service.dashboard.scores.drawing import Chart, Drawing, Key, Stroke, Table, axis, dots, line
from superbatch_server.service.dashboard.scores.reader import JobReader, OpenBatch
from superbatch_server.service.dashboard.scores.words import amount, scored_by
from superbatch_server.service.scored_batches.comparison import Comparison, Side, compare
from superbatch_server.service.scored_batches.generations import Generation, generations, newest_batches
from superbatch_server.service.scored_batches.measures import Quantity, quantity_of, values_of

MAX_BATCHES = 24
MAX_ROWS = 300_000
"""Candidates read for one side."""

MAX_DOTS = 1500
FEW_ROWS = 30
SHOWN = 6

_ASKED = re.compile(r"(g?)([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class ComparePage:
    """Ready to be drawn; without `chart` the notes say why."""

    a: str
    b: str
    name_a: str
    name_b: str
    generations: list[Generation]
    how: list[str]
    chart: Chart | None
    risers: list[Card]
    fallers: list[Card]
    notes: list[str]


@dataclass(frozen=True)
class _Asked:
    """One side as asked for, and its batches."""

    text: str
    name: str
    opened: list[OpenBatch]

    @property
    def quantity(self) -> Quantity | None:
        return next((kind for found in self.opened if (kind := quantity_of(found.scores))), None)


def read_compare_page(reader: JobReader, query: Mapping[str, str]) -> ComparePage:
    """Return the page of sides `a` and `b`: a seq, or g and the number of a generation."""
    known = generations(reader.connection, reader.job.id)
    if not known:
        return ComparePage("", "", "", "", [], [], None, [], [], ["No batch is published yet."])
    text_a, text_b = (query.get(name, "").strip() for name in ("a", "b"))
    first = next((each for each in known if each.number > 0), known[0])
    a = _open(reader, text_a or f"g{first.number}", known)
    b = _open(reader, text_b or f"g{known[-1].number}", known)
    how = [_read(side) for side in (a, b) if side.opened]
    note = _obstacle(reader, a, b)
    if note:
        return ComparePage(a.text, b.text, a.name, b.name, known, how, None, [], [], [note])
    assert a.quantity is not None, "an obstacle otherwise"
    found = compare(_side(a, a.quantity), _side(b, a.quantity))
    notes = [_amount(found)]
    if not len(found):
        return ComparePage(a.text, b.text, a.name, b.name, known, how, None, [], [], notes)
    risers, fallers = _movers(reader, b, found)
    chart = _scatter(found, a, b, a.quantity)
    return ComparePage(a.text, b.text, a.name, b.name, known, how, chart, risers, fallers, [n for n in notes if n])


def _open(reader: JobReader, text: str, known: Sequence[Generation]) -> _Asked:
    asked = _ASKED.fullmatch(text)
    if asked is None:
        raise Validation(f"a side must be a seq, or g and a generation, as g3; got {text[:40]!r} (query). Correct it.")
    value = int(asked[2])
    if not asked[1]:
        return _Asked(text, f"batch {value:,}", [reader.open(value)])
    if value not in {each.number for each in known}:
        return _Asked(text, f"generation {value:,}", [])
    opened: list[OpenBatch] = []
    rows = 0
    for seq in reversed(newest_batches(reader.connection, reader.job.id, value, at_most=MAX_BATCHES)):
        found = reader.try_open(seq)
        rows += len(found.scores) if found else 0
        if found is not None and found.batch.generation == value:
            opened.insert(0, found)
        if rows >= MAX_ROWS:
            break
    return _Asked(text, f"generation {value:,}", opened)


def _obstacle(reader: JobReader, a: _Asked, b: _Asked) -> str:
    """Return why the sides cannot be compared, empty where they can."""
    for side in (a, b):
        if not side.opened:
            because = next(iter(reader.unreadable.values()), "No published batch was scored by it.")
            return f"Nothing can be read of {side.name}. {because}"
        if side.quantity is None:
            return f"The batches of {side.name} are uniform: nothing was scored, so there is nothing to compare."
    if a.text == b.text == "g0":
        return "Every batch was scored before the first checkpoint or without any, so there are no two generations."
    if a.text == b.text:
        return "Both sides are the same. Choose two generations, or two batches, to see what changed."
    if a.quantity is not b.quantity:
        measured = f"{a.name.capitalize()} was measured by {_formula(a)}, {b.name} by {_formula(b)}"
        return f"{measured}: two quantities, which have no common scale."
    return ""


def _formula(side: _Asked) -> str:
    return side.quantity.formula if side.quantity else "nothing"


def _side(asked: _Asked, quantity: Quantity) -> Side:
    parts = [found for found in asked.opened if quantity_of(found.scores) is quantity]
    return Side(
        dataset_index=np.concatenate([found.scores.dataset_index for found in parts]),
        value=np.concatenate([values_of(found.scores, quantity).astype(np.float64) for found in parts]),
        chosen=np.concatenate([found.scores.chosen for found in parts]),
        seq=np.concatenate([np.full(len(found.scores), found.seq, dtype=np.int64) for found in parts]),
        place=np.concatenate([np.arange(len(found.scores), dtype=np.int64) for found in parts]),
    )


def _read(side: _Asked) -> str:
    seqs = [found.seq for found in side.opened]
    which = f"batch {seqs[0]:,}" if len(seqs) == 1 else f"{len(seqs):,} batches from {seqs[0]:,} to {seqs[-1]:,}"
    rows = sum(len(found.scores) for found in side.opened)
    newest = scored_by(side.opened[-1].batch)
    return f"{side.name.capitalize()}: {which}, {rows:,} candidates; the newest scored by {newest}."


def _amount(found: Comparison) -> str:
    if not len(found):
        return (
            "No row was scored in both: a row is a candidate once per pass over the data set. "
            "Choose sides that are a pass or more apart."
        )
    if len(found) < FEW_ROWS:
        rows = f"{amount(len(found), 'row')} {'was' if len(found) == 1 else 'were'}"
        return f"Only {rows} scored in both: too few for a correlation to mean much."
    return ""


def _scatter(found: Comparison, a: _Asked, b: _Asked, quantity: Quantity) -> Chart:
    x, y = axis(f"{quantity.formula}, {a.name}", found.a), axis(f"{quantity.formula}, {b.name}", found.b)
    shown = np.arange(len(found))
    if len(found) > MAX_DOTS:
        shown = np.random.default_rng(0).choice(len(found), size=MAX_DOTS, replace=False)
    low, high = max(x.ticks[0], y.ticks[0]), min(x.ticks[-1], y.ticks[-1])
    diagonal = line([(low, low), (high, high)], x, y) if low < high else ""
    known = found.correlation
    correlation = "no rank correlation" if known is None else f"a rank correlation of {known:.2f}"
    change = float(np.mean(found.b) - np.mean(found.a))
    finding = (
        f"{len(found):,} rows were scored in both, with {correlation}; their mean {quantity} "
        f"{'rose' if change >= 0 else 'fell'} by {number(abs(change))}"
    )
    drawn = "" if len(shown) == len(found) else f" {len(shown):,} of them are drawn, taken at random."
    return Chart(
        id="scatter",
        finding=finding,
        drawing=Drawing(
            x=x,
            y=y,
            summary=finding,
            strokes=(
                Stroke(diagonal, "line dashed"),
                Stroke(dots([(float(found.a[i]), float(found.b[i])) for i in shown], x, y), "dots many"),
            ),
            keys=(Key("one row", "dots"), Key("unchanged", "dashed")),
            is_tall=True,
        ),
        table=_moves_table(found, a, b),
        note=f"Ranks are among the shared rows; the table counts how rows moved between fifths.{drawn}",
    )


def _moves_table(found: Comparison, a: _Asked, b: _Asked) -> Table:
    fifths = ("highest fifth", "second", "third", "fourth", "lowest fifth")
    moves = found.quintile_moves()
    rows = tuple((fifth, *(f"{int(count):,}" for count in moves[i])) for i, fifth in enumerate(fifths))
    return Table((f"{a.name} down, {b.name} across", *fifths), rows)


def _movers(reader: JobReader, b: _Asked, found: Comparison) -> tuple[list[Card], list[Card]]:
    """Return the largest risers and fallers as candidates of side b."""
    side = _side(b, b.quantity or Quantity.SCORE)
    opened = {each.seq: each for each in b.opened}
    order = np.argsort(-found.rise, kind="stable")
    ups = [int(i) for i in order[:SHOWN] if found.rise[i] > 0]
    downs = [int(i) for i in order[::-1][:SHOWN] if found.rise[i] < 0]
    described = reader.describe(int(found.dataset_index[i]) for i in [*ups, *downs])

    def shown(i: int) -> Card:
        entry = found.entry_b[i]
        note = f"rank {found.rank_a[i]:,.0f} to {found.rank_b[i]:,.0f} of {len(found):,}"
        return card(opened[int(side.seq[entry])], int(side.place[entry]), described, note=note)

    return [shown(i) for i in ups], [shown(i) for i in downs]
