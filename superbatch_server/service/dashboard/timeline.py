"""The events of a job as a picture: when each kind of thing happened, on one line per kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from superbatch_server.schemas.jobs import Event
from superbatch_server.service.dashboard.attempts import duration
from superbatch_server.service.dashboard.safe_text import plain

WIDTH = 1000
ROW_HEIGHT = 16
MAX_KINDS = 8
BAD = ("failed", "crashed", "rejected", "refused", "lost", "expired")


@dataclass(frozen=True, slots=True)
class Lane:
    """One kind of event: `marks` are places from 0 to WIDTH, `y` the height of its line."""

    kind: str
    count: int
    y: float
    marks: tuple[float, ...]
    is_bad: bool


@dataclass(frozen=True, slots=True)
class Timeline:
    """The picture; `finding` is its title."""

    finding: str
    lanes: list[Lane]
    height: int
    started_at: str
    ended_at: str


def timeline(events: Sequence[Event]) -> Timeline | None:
    """Return the picture of events in any order; None for fewer than two."""
    if len(events) < 2:
        return None
    at_s = [(datetime.fromisoformat(event.at).timestamp(), event) for event in events]
    first_s, last_s = min(at for at, _ in at_s), max(at for at, _ in at_s)
    span_s = max(last_s - first_s, 1e-3)
    counts = Counter(event.kind for event in events)
    kinds = [kind for kind, _ in counts.most_common(MAX_KINDS)]
    order = sorted(kinds, key=lambda kind: min(at for at, event in at_s if event.kind == kind))
    lanes = [
        Lane(
            kind=_words(kind),
            count=counts[kind],
            y=ROW_HEIGHT * (i + 0.5),
            marks=tuple(
                sorted({round(WIDTH * (at - first_s) / span_s, 1) for at, event in at_s if event.kind == kind})
            ),
            is_bad=_is_bad(kind),
        )
        for i, kind in enumerate(order)
    ]
    newest = max(events, key=lambda event: event.id)
    bad = sum(count for kind, count in counts.items() if _is_bad(kind))
    said = f", {bad:,} of them {'a failure' if bad == 1 else 'failures'}" if bad else ""
    return Timeline(
        finding=f"{len(events):,} events in {duration(span_s)}{said}; the newest: {_words(newest.kind)}",
        lanes=lanes,
        height=ROW_HEIGHT * len(lanes),
        started_at=min(event.at for event in events),
        ended_at=max(event.at for event in events),
    )


def _is_bad(kind: str) -> bool:
    return any(word in kind for word in BAD)


def _words(kind: str) -> str:
    return plain(kind, 40).replace("_", " ")
