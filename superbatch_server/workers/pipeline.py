"""The composing loop: decide, draw, score, select, publish; the next super-batch is scored while this one is selected.

Letters: B candidates.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Protocol

import pyarrow as pa

from superbatch_server.schemas.attempts import (
    AttemptBundle,
    CheckpointCandidate,
    CheckpointVerdict,
    EventReport,
    ExclusionSet,
    RefreshState,
    Release,
    ScheduleRow,
    SourceCounts,
    WalkPosition,
    sum_counts,
)
from superbatch_server.schemas.jobs import Phase
from superbatch_server.schemas.models import FileRef
from superbatch_server.workers.candidates import CandidateTables
from superbatch_server.workers.compose import LearnerNotFinite, compose, finite_rows, uids_of
from superbatch_server.workers.exclusions import ExcludingPools
from superbatch_server.workers.executors import Executor
from superbatch_server.workers.lists import ListWriter, Timed
from superbatch_server.workers.model_files import model_files
from superbatch_server.workers.pool import Pool
from superbatch_server.workers.progress import Progress
from superbatch_server.workers.refresh import Wait
from superbatch_server.workers.row_scorer import RowEmbeddings, ScoringFailed
from superbatch_server.workers.schedule import ScheduleBook
from superbatch_server.workers.times_chosen import TimesChosen
from superbatch_server.workers.verify import CheckpointVerifier
from superbatch_server.workers.walk import Walk

POLL_S = 0.3

log = logging.getLogger(__name__)


class RefreshService(Protocol):
    """What the loop asks and tells the service besides schedule rows and commits."""

    def refresh(self) -> RefreshState:
        """Return credit and checkpoints."""
        ...

    def exclusions(self, digest: str) -> ExclusionSet:
        """Return the rows that a schedule row leaves out."""
        ...

    def verdict(self, checkpoint_id: str, verdict: CheckpointVerdict) -> None:
        """Say whether a checkpoint may score. Repeating changes nothing."""
        ...

    def event(self, report: EventReport) -> None:
        """Add a line to the job's history."""
        ...


@dataclass(frozen=True, eq=False)
class Scored:
    """A super-batch, ready for selection."""

    row: ScheduleRow
    candidates: pa.Table
    learner: RowEmbeddings | None
    reference: RowEmbeddings | None
    next_walk: WalkPosition
    excluded: tuple[str, ...]
    """The source of every row that the draw left out."""
    seconds: float


@dataclass(frozen=True, eq=False)
class Spoiled:
    """A super-batch whose row must be made anew."""

    row: ScheduleRow
    error: LearnerNotFinite | ScoringFailed


class Pipeline:
    """Composes and publishes the rest of a job's batches. Everything real is passed in."""

    def __init__(
        self,
        bundle: AttemptBundle,
        service: RefreshService,
        *,
        book: ScheduleBook,
        writer: ListWriter,
        walk: Walk,
        pool: Pool,
        tables: CandidateTables,
        executor: Executor,
        verifier: CheckpointVerifier | None,
        times_chosen: TimesChosen | None,
        progress: Progress,
        pass_phase: Phase = Phase.INDEXING,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        self._bundle, self._spec, self._service = bundle, bundle.spec, service
        self._book, self._writer, self._walk = book, writer, walk
        self._pool, self._tables, self._executor = pool, tables, executor
        self._verifier, self._progress, self._pause = verifier, progress, pause
        self._times_chosen = times_chosen
        self._pass_phase = pass_phase
        self._pools = ExcludingPools(pool, service.exclusions)
        self._weights: dict[str, FileRef] = {}
        self._state = RefreshState(consumer_trained_seq=0, consumer_live=True, active=None, unverified=None)
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._know(*bundle.scheduled_checkpoints)

    def run(self) -> Release | None:
        """Compose until all batches are published; return what the job should wait for when nothing moves any more."""
        try:
            return self._run()
        finally:
            self._scoring.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> Release | None:
        seq, position, ahead = self._bundle.next_seq, self._bundle.next_walk, None
        while seq < self._spec.num_batches:
            self._progress.note(batches_composed=seq, batches_total=self._spec.num_batches)
            scored = self._usable(seq, position, ahead)
            if isinstance(scored, Release):
                return scored
            ahead = self._begin_ahead(seq + 1, scored.next_walk)
            self._publish(scored)
            seq, position = seq + 1, scored.next_walk
        self._progress.note(batches_composed=seq, batches_total=self._spec.num_batches)
        return None

    def _publish(self, scored: Scored) -> None:
        started, counts = monotonic(), self._times_chosen
        self._progress.enter(Phase.COMPOSING)
        composed = compose(
            scored.row,
            scored.candidates,
            learner=scored.learner,
            reference=scored.reference,
            selection=self._spec.selection,
            seed=self._spec.seed,
            times_chosen=None if counts is None else counts.of(uids_of(scored.candidates)),
        )
        composed = replace(composed, counts=_with_excluded(composed.counts, scored.excluded))
        if counts is not None:
            counts.add(uids_of(composed.batch))
        select_s = monotonic() - started
        committed = self._writer.add(Timed(scored.row, composed, scored.next_walk, scored.seconds, select_s))
        log.info(
            "seq %d: %s, scored in %.2f s, selected in %.2f s",
            scored.row.seq,
            scored.row.rule,
            scored.seconds,
            select_s,
        )
        if committed is not None:
            self._progress.note(batches_published=committed.next_seq)
            log.info("published up to seq %d", committed.next_seq)

    def _usable(self, seq: int, position: WalkPosition, ahead: Future[Scored | Spoiled] | None) -> Scored | Release:
        """Return batch `seq` ready for selection, its row made anew as often as it takes."""
        found: Scored | Spoiled | None = None
        while not isinstance(found, Scored):
            if ahead is None:
                row = self._await_row(seq, position, spoiled=found)
                if isinstance(row, Release):
                    return row
                ahead = self._scoring.submit(self._score, row)
            self._progress.enter(Phase.COMPOSING if self._pool.is_complete else self._pass_phase)
            found, ahead = ahead.result(), None
        return found

    def _begin_ahead(self, seq: int, position: WalkPosition) -> Future[Scored | Spoiled] | None:
        """Begin to score batch `seq` if that may be done at once."""
        if seq >= self._spec.num_batches:
            return None
        row = self._row_now(seq, position)
        return None if isinstance(row, Wait) else self._scoring.submit(self._score, row)

    def _await_row(self, seq: int, position: WalkPosition, *, spoiled: Spoiled | None) -> ScheduleRow | Release:
        """Return the row of batch `seq`, waiting for credit and checkpoints, but not for longer than idle_release_s."""
        idle_since = monotonic()
        while isinstance(row := self._row_now(seq, position, spoiled=spoiled), Wait):
            self._progress.enter(_PHASE_OF_WAIT[row.waits_for])
            self._pool.check()
            if self._pool.is_complete and monotonic() - idle_since > self._bundle.runtime.idle_release_s:
                log.info("seq %d waits for the %s for too long", seq, row.waits_for)
                return self._release(row)
            self._pause(POLL_S)
        return row

    def _row_now(self, seq: int, position: WalkPosition, *, spoiled: Spoiled | None = None) -> ScheduleRow | Wait:
        if spoiled is not None:
            return self._remade(spoiled, position)
        recorded = self._book.recorded(seq)
        if recorded is not None and recorded.walk == position and self._has_weights(recorded):
            return recorded
        if (replayed := self._book.replay(seq)) is not None:
            return replayed
        return self._book.decide(seq, position, self._refreshed(), after=recorded)

    def _remade(self, spoiled: Spoiled, position: WalkPosition) -> ScheduleRow | Wait:
        """Reject the checkpoint that spoiled a super-batch, or halve the micro-batch, and decide the batch anew."""
        row, error = spoiled.row, spoiled.error
        is_memory = isinstance(error, ScoringFailed) and error.cause == "memory"
        if is_memory and row.micro_batch == 1:
            raise error
        if not is_memory:
            is_rejectable = row.checkpoint is not None and self._spec.refresh.replay is None
            if not is_rejectable or (isinstance(error, ScoringFailed) and error.cause != "model"):
                raise error
            assert row.checkpoint is not None
            self._service.verdict(row.checkpoint.id, CheckpointVerdict(ok=False, reason=f"{error.code}: {error}"))
        remade = self._book.decide(row.seq, position, self._refreshed(), after=row, shrink=is_memory)
        if isinstance(remade, ScheduleRow):
            message = f"batch {row.seq} is made anew: {error}"
            self._service.event(EventReport(kind="row_remade", message=message[:4000], fields={"seq": row.seq}))
        return remade

    def _refreshed(self) -> RefreshState:
        """Return credit, checkpoints and exclusions, with every new checkpoint tried."""
        state = self._service.refresh()
        while state.unverified is not None and self._verifier is not None:
            verdict = self._verifier.verdict(state.unverified)
            log.info("checkpoint %s: %s", state.unverified.id, "finite" if verdict.ok else verdict.reason)
            self._service.verdict(state.unverified.id, verdict)
            state = self._service.refresh()
        self._know(*(candidate for candidate in (state.active,) if candidate))
        self._state = state
        return state

    def _score(self, row: ScheduleRow) -> Scored | Spoiled:
        """Draw and embed one super-batch; runs in the scoring thread."""
        draw = self._walk.draw(row.walk, row.B, self._pools.under(row.exclusions_digest))
        started = monotonic()  # the draw may have waited for shards
        candidates = self._tables.table(draw.index_B)
        reads = row.method.reads_criterion
        learner = reference = None
        if reads and row.criterion.uses_learner:
            try:
                learner = self._embed(row, candidates)
            except ScoringFailed as error:
                return Spoiled(row, error)
            finite = int(finite_rows(learner).sum())
            if finite < self._spec.selection.b:
                return Spoiled(row, LearnerNotFinite(finite=finite, b=self._spec.selection.b, seq=row.seq))
        if (reads and row.criterion.uses_reference) or self._tells_near_copies:
            reference = self._tables.reference(draw.index_B)
        excluded = tuple(self._tables.sources(draw.excluded))
        return Scored(row, candidates, learner, reference, draw.next_position, excluded, monotonic() - started)

    @property
    def _tells_near_copies(self) -> bool:
        """True when the reference says what is near to what; a spec with hard negatives has it and `max_cosine`."""
        return self._spec.selection.max_cosine is not None and self._spec.reference is not None

    def _embed(self, row: ScheduleRow, candidates: pa.Table) -> RowEmbeddings:
        assert self._bundle.learner is not None, "a criterion that uses the learner needs one"
        weights = self._weights[row.checkpoint.id] if row.checkpoint else None
        files = model_files(self._bundle.learner, weights=weights)
        return self._executor.embed_rows(files, self._tables.references(candidates), micro_batch=row.micro_batch)

    def _know(self, *candidates: CheckpointCandidate) -> None:
        self._weights.update({candidate.id: candidate.files[0] for candidate in candidates})

    def _has_weights(self, row: ScheduleRow) -> bool:
        """Return whether the row's checkpoint can be loaded; a superseded one of an earlier attempt may be unknown."""
        if row.checkpoint is None or row.checkpoint.id in self._weights:
            return True
        self._refreshed()
        return row.checkpoint.id in self._weights

    def _release(self, wait: Wait) -> Release:
        return Release(
            waits_for=wait.waits_for,
            seen_trained_seq=self._state.consumer_trained_seq,
            seen_checkpoint=self._state.active.id if self._state.active else None,
            seen_live=self._state.consumer_live,
        )


_PHASE_OF_WAIT = {"trainer": Phase.WAITING_FOR_TRAINER, "checkpoint": Phase.WAITING_FOR_CHECKPOINT}


def _with_excluded(counts: dict[str, SourceCounts], sources: Sequence[str]) -> dict[str, SourceCounts]:
    """Return the counts of a batch, with one excluded row more for each entry of `sources`."""
    found = dict(counts)
    for source, rows in Counter(sources).items():
        left_out = SourceCounts(candidates=0, selected=0, excluded=rows)
        found[source] = sum_counts([found[source], left_out]) if source in found else left_out
    return found
