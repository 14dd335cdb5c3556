"""`superbatch watch`: follow a job to its end, with a progress bar on a terminal and plain lines elsewhere."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO

from superbatch.cli.client import Service
from superbatch.cli.errors import Exit
from superbatch.cli.jobs import event_line
from superbatch.cli.progress import ProgressLine, bar
from superbatch.cli.text import count, duration, shown
from superbatch.formats.errors import ServiceUnreachable
from superbatch.formats.json_fields import JsonFields

POLL_S = 1.0
PATIENCE_S = 120.0
"""How long a service may be silent: a crashed host's job is taken over within 60 s."""

FINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
READING_PHASES = ("indexing", "embedding")


@dataclass(frozen=True, slots=True)
class View:
    """One look at a job."""

    job: JsonFields
    stats: JsonFields

    @property
    def state(self) -> str:
        """State of the job."""
        return self.job.text("state")

    @property
    def head(self) -> str:
        """What is being done, in one or two words."""
        phase = (self.job.optional_text("phase") or "").replace("_", " ")
        return phase if phase and self.state in ("RUNNING", "QUEUED") else self.state.lower()


def watch(options: argparse.Namespace, service: Service) -> Exit:
    """Follow a job to its end: phase, shards, batches, filter ratio, staleness, events."""
    return watch_job(service, options.job)


def watch_job(
    service: Service,
    job_id: str,
    *,
    out: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Exit:
    """Return OK when the job SUCCEEDED, ENDED_BADLY when it FAILED or was CANCELLED."""
    out = sys.stdout if out is None else out
    line, speed = ProgressLine(out, clock=clock), Speed(clock)
    try:
        for view in _views(service, job_id, line, sleep, clock):
            line.show(view.head, progress_text(view, speed, plain=line.is_plain))
            if view.state in FINAL:
                break
    finally:
        line.end()
    print(ending(view), file=out)
    return Exit.OK if view.state == "SUCCEEDED" else Exit.ENDED_BADLY


def _views(
    service: Service, job_id: str, line: ProgressLine, sleep: Callable[[float], None], clock: Callable[[], float]
) -> Iterator[View]:
    """Yield look after look, and log the events between them; a service that restarts is waited for."""
    after, answered_s = 0, clock()
    while True:
        began_s = clock()
        try:
            view = View(service.get(f"/v1/jobs/{job_id}"), service.get(f"/v1/jobs/{job_id}/stats", {"num_segments": 1}))
            for event in service.items(f"/v1/jobs/{job_id}/events", "events", {"after": after}):
                after = event.integer("id")
                line.log(event_line(event))
        except ServiceUnreachable:
            if clock() - answered_s > PATIENCE_S:
                raise
            line.show("the service does not answer; trying again", "")
            continue
        answered_s = clock()
        yield view
        # The numbers of a long log cost the service more; it is asked a quarter of the time at most.
        sleep(max(POLL_S, 3 * (clock() - began_s)))


class Speed:
    """Batches per second since the first look."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def seen(self, next_seq: int) -> float:
        """Note a count and return the speed; 0 while there is none."""
        now_s = self._clock()
        if self._first is None:
            self._first = (now_s, next_seq)
        first_s, first_seq = self._first
        return (next_seq - first_seq) / (now_s - first_s) if now_s > first_s else 0.0


def progress_text(view: View, speed: Speed, *, plain: bool) -> str:
    """Return how far the job is: shards while they are read, batches afterwards."""
    next_seq, num_batches = view.job.integer("next_seq"), view.job.integer("num_batches")
    per_s = speed.seen(next_seq)
    shards = _shards(view)
    if shards is not None:
        done, total = shards
        return f"{bar(done / total, plain=plain)} {done:,}/{total:,} shards"
    parts = [f"{bar(next_seq / num_batches, plain=plain)} {next_seq:,}/{num_batches:,} batches"]
    if not view.stats.is_null("filter_ratio"):
        parts.append(f"filter ratio {view.stats.number('filter_ratio'):.3f}")
    parts += _refresh_texts(view)
    if per_s > 0 and next_seq < num_batches:
        parts += [f"{per_s:.2g} batches/s", f"{duration((num_batches - next_seq) / per_s)} left"]
    return "  ".join(parts)


def ending(view: View) -> str:
    """Return how the job ended, in one line; for a FAILED one with its error and what to do."""
    job, stats = view.job, view.stats
    published = f"{job.integer('next_seq'):,} of {job.integer('num_batches'):,} batches"
    if view.state == "FAILED":
        error = shown(job.optional_text("error") or "no reason was given")
        code = shown(job.optional_text("error_code") or "unknown")
        return (
            f"FAILED after {published}: {error} [{code}]\nTo go on after mending it: superbatch retry {job.text('id')}"
        )
    selected = f"{stats.integer('trained'):,} of {stats.integer('loaded'):,} candidates selected"
    return f"{view.state}: {published}, {selected}{_quarantined(stats)}"


def _quarantined(stats: JsonFields) -> str:
    """Return the rows that were left out and why, or nothing where all were good."""
    reasons = stats.object("quarantined")
    counts = {shown(reason): reasons.integer(reason) for reason in reasons.value}
    if not counts:
        return ""
    why = ", ".join(f"{reason} {number:,}" for reason, number in counts.items())
    return f"\n{count(sum(counts.values()), 'row')} quarantined: {why}"


def _shards(view: View) -> tuple[int, int] | None:
    """Return shards done and shards in all, while shards are what is being worked on."""
    counters = view.stats.object("counters")
    total = counters.optional_integer("shards_total")
    if view.job.optional_text("phase") not in READING_PHASES or not total:
        return None
    return counters.optional_integer("shards_done") or 0, total


def _refresh_texts(view: View) -> list[str]:
    segments = view.stats.objects("segments")
    if not segments or segments[-1].is_null("staleness"):
        return []
    newest = segments[-1]
    staleness = newest.integers("staleness", length=newest.integer("num_batches"))
    return [f"generation {newest.integer('generation')}", f"staleness {staleness[-1]}"]
