"""What a job's segments say over seq; each is read once, although the page is fetched every two seconds."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from time import monotonic
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.service.catalog.tables import segments
from superbatch_server.service.dashboard.curve import Curve

MAX_JOBS = 64
MAX_SOURCES = 64
"""Sources that have curves of their own, in the order of their first appearance."""
STAGES = ("score_s", "select_s", "commit_s")
READ_S = 0.25
"""Seconds after which a look stops reading and shows what it has; the next one goes on there."""
LOOK_AT_CLOCK = 256
"""Segments read between two looks at the clock."""
STAND_INS = ("easy_reference", "uniform")
_NONE = {"candidates": 0, "selected": 0}


@dataclass
class History:
    """Curves over the published batches, of bounded size, and totals.

    `criterion` is the one the job was submitted with. The scores of batches that a stand-in scored are another quantity
    (easy_reference is a loss, learnability a difference of two); they do not enter the curves of scores. Staleness has
    no value where no pushed checkpoint scored the batch.
    """

    criterion: str | None = None
    next_seq: int = 0
    staleness: Curve = field(default_factory=Curve)
    generation: Curve = field(default_factory=Curve)
    mean_batch: Curve = field(default_factory=Curve)
    mean_super_batch: Curve = field(default_factory=Curve)
    candidates: Curve = field(default_factory=Curve)
    selected: Curve = field(default_factory=Curve)
    by_source: dict[str, tuple[Curve, Curve]] = field(default_factory=dict)
    """Candidates and selected rows of a source."""
    rules: list[tuple[int, str]] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)

    def copy(self) -> History:
        """Return a history that further segments do not change."""
        names = ("staleness", "generation", "mean_batch", "mean_super_batch", "candidates", "selected")
        return replace(
            self,
            **{name: getattr(self, name).copy() for name in names},
            by_source={name: (one.copy(), other.copy()) for name, (one, other) in self.by_source.items()},
            rules=self.rules[:],
            seconds=self.seconds.copy(),
        )

    def rule_ranges(self) -> list[tuple[range, str]]:
        """Return which rule scored which batches, as runs in order of seq."""
        bounds = pairwise([*self.rules, (self.next_seq, "")])
        return [(range(start, stop), rule) for (start, rule), (stop, _) in bounds]

    def not_drawn(self) -> list[tuple[range, str]]:
        """Return the runs of batches whose scores are another quantity than the others'."""
        return [run for run in self.rule_ranges() if self._is_stand_in(run[1])]

    def add(self, commit: dict[str, Any]) -> None:
        """Take in the next segment, a stored `SegmentCommit`."""
        first, count, rule, stats = (commit[name] for name in ("first_seq", "num_batches", "rule", "stats"))
        assert first == self.next_seq, "segments are read in order and have no gap"
        if not self.rules or self.rules[-1][1] != rule:
            self.rules.append((first, rule))
        trained_seq = commit["checkpoint"]["trained_seq"] if commit["checkpoint"] else math.nan
        is_drawn = not self._is_stand_in(rule)
        scores_batch = _padded(stats["learnability_batch"] if is_drawn else (), count)
        scores_super = _padded(stats["learnability_super_batch"] if is_drawn else (), count)
        for i in range(count):
            self.staleness.append(first + i - trained_seq)
            self.generation.append(commit["generation"])
            self.mean_batch.append(scores_batch[i])
            self.mean_super_batch.append(scores_super[i])
        self._add_counts(first + count - 1, stats["per_source"])
        for name in STAGES:
            self.seconds[name] += stats[name]
        self.next_seq = first + count

    def _add_counts(self, seq: int, per_source: dict[str, dict[str, int]]) -> None:
        """Count the rows of a segment at its last batch: segments are counted whole."""
        self.candidates.put(seq, sum(counts["candidates"] for counts in per_source.values()))
        self.selected.put(seq, sum(counts["selected"] for counts in per_source.values()))
        for source in per_source:
            if source not in self.by_source and len(self.by_source) < MAX_SOURCES:
                self.by_source[source] = (Curve(), Curve())
        for source, (candidates, selected) in self.by_source.items():
            counts = per_source.get(source, _NONE)
            candidates.put(seq, counts["candidates"])
            selected.put(seq, counts["selected"])

    def _is_stand_in(self, rule: str) -> bool:
        return rule in STAND_INS and rule != self.criterion


class HistoryCache:
    """The histories of the jobs looked at last. Law: `read` equals a history read from the start, as far as it goes."""

    def __init__(self, *, read_s: float = READ_S) -> None:
        self._read_s = read_s
        self._histories: OrderedDict[str, History] = OrderedDict()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def read(self, connection: Connection, job: RowMapping, spec: CurateSpec) -> History:
        """Return the job's history up to the newest segment that `connection` sees, or to where the time was over.

        One request reads at a time; the others take what was there before, so that none waits for long. Never change
        what is returned.
        """
        history_id = job["history_id"]
        with self._lock:
            reading = self._locks[history_id]
        is_first = reading.acquire(blocking=False)
        if not is_first:
            if (known := self._kept(history_id)) is not None:
                return known
            reading.acquire()
        try:
            known = self._kept(history_id)
            if known is not None and (known.next_seq >= job["next_seq"] or not is_first):
                return known
            history = History(criterion=_criterion(spec)) if known is None else known.copy()
            _catch_up(connection, job["id"], history, read_s=self._read_s)
            self._keep(history_id, history)
            return history
        finally:
            reading.release()

    def _kept(self, history_id: str) -> History | None:
        with self._lock:
            return self._histories.get(history_id)

    def _keep(self, history_id: str, history: History) -> None:
        with self._lock:
            self._histories[history_id] = history
            self._histories.move_to_end(history_id)
            while len(self._histories) > MAX_JOBS:
                oldest, _ = self._histories.popitem(last=False)
                self._locks.pop(oldest, None)


def _criterion(spec: CurateSpec) -> str | None:
    return str(spec.selection.criterion) if spec.selection.criteria() else None


def _catch_up(connection: Connection, job_id: str, history: History, *, read_s: float) -> None:
    until = monotonic() + read_s
    query = select(segments.c.commit).where(segments.c.job_id == job_id, segments.c.first_seq >= history.next_seq)
    query = query.order_by(segments.c.first_seq).execution_options(yield_per=LOOK_AT_CLOCK)
    with connection.execute(query) as found:
        for number, text in enumerate(found.scalars(), start=1):
            history.add(json.loads(text))
            if number % LOOK_AT_CLOCK == 0 and monotonic() > until:
                return


def _padded(values: Sequence[float], length: int) -> Sequence[float]:
    return [*values[:length], *[math.nan] * (length - len(values))]
