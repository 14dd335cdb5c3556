"""The head of a job's page: how far it is, and the numbers that matter first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from superbatch_server.schemas.jobs import Job, JobState, Phase
from superbatch_server.schemas.stats import JobStats
from superbatch_server.schemas.trainers import Checkpoint, Consumer
from superbatch_server.service.dashboard.attempts import duration
from superbatch_server.service.dashboard.charts import newest_staleness
from superbatch_server.service.dashboard.history import History
from superbatch_server.service.dashboard.plot import number
from superbatch_server.service.dashboard.speed import Speed


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the head is made from; every number that `GET /v1/jobs/{job}/stats` has comes from `stats`."""

    job: Job
    stats: JobStats
    history: History
    speed: Speed
    consumers: Sequence[Consumer]
    active: Checkpoint | None = None
    """The checkpoint that scores the next batch."""
    newest_score_age_s: float | None = None
    """Seconds between the push of the checkpoint that scored the newest batch and the commit of that batch."""
    supervisor_warning: str = ""

    @property
    def learner(self) -> Consumer | None:
        """The trainer whose progress is credit."""
        return next((consumer for consumer in self.consumers if consumer.report.role == "learner"), None)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its name, and what stands small below it; `stat` is its name and value in /stats."""

    name: str
    value: str
    note: str = ""
    stat: tuple[str, int | float | None] | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """A progress bar; it is drawn quietly when it will not move any more."""

    name: str
    done: int
    total: int
    is_over: bool
    stat: str | None = None


def tracks(facts: Facts) -> list[Track]:
    """Return the bars: shards indexed and embedded, batches published, batches the learner has trained."""
    job, learner, counters = facts.job, facts.learner, facts.stats.counters
    is_over = job.state.is_terminal
    shown = []
    if counters.get("shards_total") and not is_over:
        shown.append(Track("Shards", int(counters.get("shards_done", 0)), int(counters["shards_total"]), False))
    shown.append(Track("Published", job.next_seq, job.num_batches, is_over, "next_seq"))
    if learner is not None:
        is_still = is_over and not learner.is_live
        shown.append(
            Track("Trained", facts.stats.consumer_trained_seq, job.num_batches, is_still, "consumer_trained_seq")
        )
    return shown


def figures(facts: Facts) -> list[Figure]:
    """Return the key figures; a number that is not known yet is a dash."""
    stats, spec = facts.stats, facts.job.spec
    return [
        _filter_figure(facts),
        Figure("Loaded", f"{stats.loaded:,}", "candidates drawn", ("loaded", stats.loaded)),
        Figure("Selected", f"{stats.trained:,}", f"rows, {spec.selection.b:,} a batch", ("trained", stats.trained)),
        _eligible_figure(stats),
        *(_cap_figure(facts) if spec.selection.repetition_cap is not None else ()),
        *(_refresh_figures(facts) if spec.pushes else ()),
        _speed_figure(facts),
        _left_figure(facts),
    ]


def status_note(facts: Facts) -> str:
    """Return a sentence where the state alone does not say what a person waits for."""
    job = facts.job
    if job.state is JobState.CANCELLING:
        return "The driver was asked to stop."
    if job.phase in (Phase.WAITING_FOR_TRAINER, Phase.WAITING_FOR_CHECKPOINT):
        meanwhile = " Its machine is free meanwhile." if job.state is JobState.QUEUED else ""
        return f"Waits {_awaited(facts)}.{meanwhile}"
    if job.state is JobState.QUEUED:
        return facts.supervisor_warning or "Waits for a supervisor to have a place free."
    return ""


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
    ratio, b = facts.stats.filter_ratio, facts.job.spec.selection.b
    newest = facts.stats.segments[-1:]
    note = f"{b:,} of {newest[0].B[-1]:,} kept" if newest else f"{b:,} a batch"
    return Figure("Filter ratio", "–" if ratio is None else f"{ratio:.3f}", note, ("filter_ratio", ratio))


def _eligible_figure(stats: JobStats) -> Figure:
    of_rows = "" if stats.rows is None else f"of {stats.rows:,} rows"
    value = "–" if stats.eligible is None else f"{stats.eligible:,}"
    return Figure("Eligible", value, of_rows, ("eligible", stats.eligible))


def _cap_figure(facts: Facts) -> tuple[Figure]:
    stats = facts.stats
    share = f"{stats.capped / stats.loaded:.1%}" if stats.loaded else "–"
    return (Figure("At the cap", share, f"of the candidates; {facts.job.spec.selection.repetition_cap:,} allowed"),)


def _refresh_figures(facts: Facts) -> tuple[Figure, ...]:
    newest = newest_staleness(facts.stats)
    allowed = facts.job.spec.refresh.max_staleness
    ahead = facts.job.next_seq - facts.stats.consumer_trained_seq
    of = "" if facts.learner is None else f" of {facts.learner.name}"
    return (
        Figure("Ahead", f"{ahead:,}", f"batches ahead{of}; {max(0, allowed - ahead):,} of credit left"),
        _generation_figure(facts),
        Figure("Staleness", "–" if newest is None else f"{newest:,}", _age_note(facts, allowed)),
    )


def _generation_figure(facts: Facts) -> Figure:
    newest, now = facts.stats.segments[-1:], facts.stats.generation
    scored = f"{newest[0].generation:,} scored the newest batch" if newest else ""
    return Figure("Generation", f"{now:,}", scored, ("generation", now))


def _age_note(facts: Facts, allowed: int) -> str:
    age_s = facts.newest_score_age_s
    pushed = "" if age_s is None else f"; scored {duration(age_s)} after the push"
    return f"batches; limit {allowed:,}{pushed}"


def _speed_figure(facts: Facts) -> Figure:
    speed, history = facts.speed, facts.history
    if speed.rows_per_s is not None:
        each = "" if speed.seconds_per_batch is None else f", {duration(speed.seconds_per_batch)} a batch"
        return Figure("Rows per second", number(speed.rows_per_s), f"looked at{each}")
    if not history.next_seq:
        return Figure("Per batch", "–")
    total_s = sum(history.seconds.values())
    share = history.seconds["score_s"] / total_s if total_s else 0.0
    return Figure("Per batch", _seconds(total_s / history.next_seq), f"{share:.0%} of it scoring")


def _left_figure(facts: Facts) -> Figure:
    job = facts.job
    if job.state.is_terminal:
        return Figure("Time left", "none", f"the job is {job.state.lower()}")
    left_s, batches = facts.speed.left_s, job.num_batches - job.next_seq
    return Figure("Time left", "–" if left_s is None else duration(left_s), f"for {batches:,} batches")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
