"""What a job's segments say in sum and over seq; each is read once, although the page is fetched every two seconds."""

from __future__ import annotations

import math
import threading
from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise

from sqlalchemy import Connection, RowMapping, select

from superbatch_server.schemas.attempts import SegmentCommit, SourceCounts, sum_counts
from superbatch_server.service.catalog.tables import segments

MAX_JOBS = 8


@dataclass
class History:
    """Columns over seq, one entry per published batch, and totals.

    staleness is NaN where no pushed checkpoint scored the batch, a mean where the batch has no score. Arrays keep a job
    of a million batches in 32 MB.
    """

    staleness: array[float] = field(default_factory=lambda: array("d"))
    generation: array[float] = field(default_factory=lambda: array("d"))
    mean_batch: array[float] = field(default_factory=lambda: array("d"))
    mean_super_batch: array[float] = field(default_factory=lambda: array("d"))
    rules: list[tuple[int, str]] = field(default_factory=list)
    per_source: dict[str, SourceCounts] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)
    newest_B: int | None = None

    @property
    def next_seq(self) -> int:
        """Number of batches read."""
        return len(self.staleness)

    @property
    def total(self) -> SourceCounts:
        """Counts over all sources: `candidates` are the examples loaded, `selected` those of all batches."""
        return sum_counts(self.per_source.values())

    def rule_ranges(self) -> list[tuple[range, str]]:
        """Return which rule scored which batches, as runs in order of seq."""
        bounds = pairwise([*self.rules, (self.next_seq, "")])
        return [(range(start, stop), rule) for (start, rule), (stop, _) in bounds]

    def add(self, commit: SegmentCommit) -> None:
        """Take in the next segment."""
        assert commit.first_seq == self.next_seq, "segments are read in order and have no gap"
        trained_seq = commit.checkpoint.trained_seq if commit.checkpoint else None
        if not self.rules or self.rules[-1][1] != commit.rule:
            self.rules.append((commit.first_seq, commit.rule))
        for seq in range(commit.first_seq, commit.first_seq + commit.num_batches):
            self.staleness.append(math.nan if trained_seq is None else seq - trained_seq)
            self.generation.append(commit.generation)
        self.mean_batch.extend(_padded(commit.stats.learnability_batch, commit.num_batches))
        self.mean_super_batch.extend(_padded(commit.stats.learnability_super_batch, commit.num_batches))
        for source, counts in commit.stats.per_source.items():
            known = self.per_source.get(source)
            self.per_source[source] = sum_counts([known, counts]) if known else counts
        for name in ("score_s", "select_s", "commit_s"):
            self.seconds[name] += getattr(commit.stats, name)
        self.newest_B = commit.B[-1]


class HistoryCache:
    """The histories of the jobs looked at last. Law: `read` equals a history read from the start."""

    def __init__(self) -> None:
        self._histories: OrderedDict[str, History] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, connection: Connection, job: RowMapping) -> History:
        """Return the job's history up to the newest segment that `connection` sees."""
        with self._lock:
            history = self._histories.pop(job["history_id"], None)
            if history is None or history.next_seq > job["next_seq"]:
                history = History()
            _catch_up(connection, job["id"], history)
            self._histories[job["history_id"]] = history
            while len(self._histories) > MAX_JOBS:
                self._histories.popitem(last=False)
            # A copy, because another request may take in the next segment while this one is drawn.
            return deepcopy(history)


def _catch_up(connection: Connection, job_id: str, history: History) -> None:
    query = select(segments.c.commit).where(segments.c.job_id == job_id, segments.c.first_seq >= history.next_seq)
    for text in connection.execute(query.order_by(segments.c.first_seq)).scalars():
        history.add(SegmentCommit.model_validate_json(text))


def _padded(values: Sequence[float], length: int) -> Sequence[float]:
    return [*values[:length], *[math.nan] * (length - len(values))]
