"""The head of a job's page: how far it is, and the numbers that matter first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from superbatch_server.schemas.attempts import PoolReport
from superbatch_server.schemas.datasets import Dataset
from superbatch_server.schemas.jobs import Job, JobState, Phase
from superbatch_server.schemas.trainers import Checkpoint, Consumer
from superbatch_server.service.catalog.stats import filter_ratio
from superbatch_server.service.dashboard.history import History
from superbatch_server.service.dashboard.plot import number


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the head is made from."""

    job: Job
    dataset: Dataset
    history: History
    pool: PoolReport | None
    consumers: Sequence[Consumer]
    counters: Mapping[str, int | float]
    active: Checkpoint | None = None
    """The checkpoint that scores the next batch."""

    @property
    def learner(self) -> Consumer | None:
        """The trainer whose progress is credit."""
        return next((consumer for consumer in self.consumers if consumer.report.role == "learner"), None)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its name, and what stands small below it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Track:
    """A progress bar; it is drawn quietly when it will not move any more."""

    name: str
    done: int
    total: int
    is_over: bool


def tracks(facts: Facts) -> list[Track]:
    """Return the bars: shards indexed and embedded, batches published, batches the learner has trained."""
    job, learner, is_over = facts.job, facts.learner, facts.job.state.is_terminal
    shown = []
    if facts.counters.get("shards_total") and not is_over:
        shown.append(
            Track("Shards", int(facts.counters.get("shards_done", 0)), int(facts.counters["shards_total"]), False)
        )
    shown.append(Track("Published", job.next_seq, job.num_batches, is_over))
    if learner is not None:
        shown.append(Track("Trained", learner.report.trained_seq, job.num_batches, is_over and not learner.is_live))
    return shown


def figures(facts: Facts) -> list[Figure]:
    """Return the key figures; a number that is not known yet is a dash."""
    total, b = facts.history.total, facts.job.spec.selection.b
    return [
        _filter_figure(facts),
        Figure("Loaded", f"{total.candidates:,}", "candidates drawn"),
        _trained_figure(facts, b),
        _eligible_figure(facts),
        *(_cap_figure(facts) if facts.job.spec.selection.repetition_cap is not None else ()),
        *(_refresh_figures(facts) if facts.job.spec.pushes else ()),
        _speed_figure(facts.history),
    ]


def status_note(facts: Facts) -> str:
    """Return a sentence where the state alone does not say what a person waits for."""
    job = facts.job
    if job.state is JobState.CANCELLING:
        return "The driver was asked to stop."
    if job.phase in (Phase.WAITING_FOR_TRAINER, Phase.WAITING_FOR_CHECKPOINT):
        meanwhile = " Its machine is free meanwhile." if job.state is JobState.QUEUED else ""
        return f"Waits {_awaited(facts)}.{meanwhile}"
    return "Waits for a supervisor." if job.state is JobState.QUEUED else ""


def _awaited(facts: Facts) -> str:
    job, learner = facts.job, facts.learner
    if job.phase is Phase.WAITING_FOR_CHECKPOINT:
        newest = "" if facts.active is None else f" than that of {facts.active.trained_seq:,} batches"
        return f"for a newer checkpoint of the learner{newest}"
    if learner is None:
        return "for a trainer to register"
    if not learner.is_live:
        return f"for the trainer {learner.name}, which has not reported since its time to live passed"
    return f"until {learner.name} has trained more: it is {job.next_seq - learner.report.trained_seq:,} behind"


def _filter_figure(facts: Facts) -> Figure:
    ratio = filter_ratio(facts.history.total)
    largest = f" of {facts.history.newest_B:,} kept" if facts.history.newest_B else " a batch"
    return Figure("Filter ratio", "–" if ratio is None else f"{ratio:.3f}", f"{facts.job.spec.selection.b:,}{largest}")


def _trained_figure(facts: Facts, b: int) -> Figure:
    if facts.learner is None:
        return Figure("Trained", "–", "no trainer yet")
    return Figure("Trained", f"{facts.learner.report.trained_seq * b:,}", f"examples, by {facts.learner.name}")


def _eligible_figure(facts: Facts) -> Figure:
    rows = facts.dataset.rows
    of_rows = "" if rows is None else f"of {rows:,} rows"
    return Figure("Eligible", f"{facts.pool.eligible:,}" if facts.pool else "–", of_rows)


def _cap_figure(facts: Facts) -> tuple[Figure]:
    total = facts.history.total
    share = f"{total.capped / total.candidates:.1%}" if total.candidates else "–"
    return (Figure("At the cap", share, f"of the candidates; {facts.job.spec.selection.repetition_cap:,} allowed"),)


def _refresh_figures(facts: Facts) -> tuple[Figure, Figure]:
    history = facts.history
    newest = [value for value in history.staleness[-1:] if math.isfinite(value)]
    generation = f"{history.generation[-1]:.0f}" if history.next_seq else "–"
    return (
        Figure("Generation", generation, _of_generation(generation, facts.active)),
        Figure(
            "Staleness",
            number(newest[0]) if newest else "–",
            f"batches; limit {facts.job.spec.refresh.max_staleness:,}",
        ),
    )


def _of_generation(newest: str, active: Checkpoint | None) -> str:
    is_other = active is not None and str(active.generation) != newest
    return f"of the newest batch; {active.generation} is active" if active and is_other else "of the newest batch"


def _speed_figure(history: History) -> Figure:
    if not history.next_seq:
        return Figure("Per batch", "–")
    total_s = sum(history.seconds.values())
    share = history.seconds["score_s"] / total_s if total_s else 0.0
    return Figure("Per batch", _seconds(total_s / history.next_seq), f"{share:.0%} of it scoring")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
