"""Throughput by stage: what the index pass of the newest attempt and all published batches took, and the rows of it."""

from __future__ import annotations

from dataclasses import dataclass

from superbatch_server.schemas.stats import JobStats
from superbatch_server.service.dashboard.attempts import duration
from superbatch_server.service.dashboard.history import History
from superbatch_server.service.dashboard.plot import number

PASS_STAGES = (
    ("Read", "pass_read_s"),
    ("Decode", "pass_decode_s"),
    ("Encode", "pass_encode_s"),
    ("Write index", "pass_write_s"),
)
BATCH_STAGES = (("Score", "score_s"), ("Select", "select_s"), ("Write lists", "commit_s"))


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: seconds spent in it, of all workers together, rows that went through, share of the longest stage."""

    name: str
    took: str
    rows: int
    rows_per_s: str
    share: float


@dataclass(frozen=True, slots=True)
class Stages:
    """The table, and the sentence above it."""

    finding: str
    rows: list[Stage]
    note: str


def read_stages(history: History, stats: JobStats) -> Stages | None:
    """Return the stages that were measured; None before any was."""
    counters = stats.counters
    rows_read = int(counters.get("rows_read", 0))
    measured = [(name, float(counters[key]), rows_read) for name, key in PASS_STAGES if counters.get(key)]
    measured += [(name, history.seconds[key], stats.loaded) for name, key in BATCH_STAGES if history.seconds[key]]
    if not measured:
        return None
    longest = max(seconds for _, seconds, _ in measured)
    lines = [
        Stage(name, duration(seconds), rows, number(rows / seconds) if rows else "–", seconds / longest)
        for name, seconds, rows in measured
    ]
    slowest = next(name for name, seconds, _ in measured if seconds == longest)
    share = longest / sum(seconds for _, seconds, _ in measured)
    is_cached = not rows_read
    return Stages(
        finding=f"{slowest} takes {share:.0%} of the measured time",
        rows=lines,
        note=("The newest attempt read no shard: the cache had all, or it has not begun. " if is_cached else "")
        + "Seconds of all workers together; scoring reads, decodes and encodes its candidates with the learner.",
    )
