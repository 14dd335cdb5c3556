"""Schedule rows: everything that decides a batch, resolved at its seq and recorded before it is scored."""

from __future__ import annotations

from typing import Protocol, TypeVar

from pydantic import BaseModel

from superbatch.selection.schedule import ScheduledParameters, SelectionSchedule
from superbatch_server.schemas.attempts import AttemptBundle, RefreshState, ScheduleRow, WalkPosition
from superbatch_server.schemas.errors import ReplayMismatch
from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.selection import Criterion, Method, SelectionSpec
from superbatch_server.workers.refresh import Score, Wait, decide

Plain = TypeVar("Plain", float, str, tuple[float, float])


class ScheduleRecorder(Protocol):
    """Law: of several rows with one (seq, row_attempt) the first recorded one stays, and is what every call returns."""

    def record_schedule(self, row: ScheduleRow) -> ScheduleRow:
        """Record a row and return what is recorded."""
        ...


class ScheduleBook:
    """The rows of one attempt: those of earlier attempts, those of a replayed job, and new ones."""

    def __init__(self, bundle: AttemptBundle, recorder: ScheduleRecorder, *, micro_batch: int) -> None:
        self._spec = bundle.spec
        self._recorder = recorder
        self._micro_batch = micro_batch
        self._schedule = selection_schedule(bundle.spec.selection)
        self._recorded = {row.seq: row for row in bundle.schedule}
        self._replayed = {row.seq: row for row in bundle.replay}

    def recorded(self, seq: int) -> ScheduleRow | None:
        """Return the newest row of a batch, if it was decided before.

        Such a row is used again as it is, unless the walk has come elsewhere since: the batch before it was then made
        anew, with other rows excluded.
        """
        return self._recorded.get(seq)

    def replay(self, seq: int) -> ScheduleRow | None:
        """Record and return the replayed job's row; None for a job that replays none.

        Raises: ReplayMismatch when the replayed job has not published this batch.
        """
        if self._spec.refresh.replay is None:
            return None
        if seq not in self._replayed:
            raise ReplayMismatch(
                f"a replayed job must have published every batch of the replay; got none for seq {seq} of "
                f"{self._spec.num_batches} (job {self._spec.refresh.replay}). Replay fewer batches, or let it run on."
            )
        return self._record(self._replayed[seq].model_copy(update={"row_attempt": 0}))

    def decide(
        self,
        seq: int,
        walk: WalkPosition,
        state: RefreshState,
        *,
        after: ScheduleRow | None = None,
        shrink: bool = False,
    ) -> ScheduleRow | Wait:
        """Decide a batch now and record that, or return what it waits for.

        Args:
            after: the row that this one replaces.
            shrink: halve its micro-batch, because memory ran out.
        """
        at = self._schedule.at(seq)
        decision = decide(seq, self._spec, state, method=Method(at.method), criterion=Criterion(at.criterion))
        if isinstance(decision, Wait):
            return decision
        micro_batch = after.micro_batch if after else self._micro_batch
        return self._record(
            resolved_row(
                seq,
                at,
                decision,
                b=self._spec.selection.b,
                walk=walk,
                row_attempt=after.row_attempt + 1 if after else 0,
                micro_batch=max(1, micro_batch // 2) if shrink else micro_batch,
                exclusions_digest=state.exclusions_digest,
            )
        )

    def _record(self, row: ScheduleRow) -> ScheduleRow:
        self._recorded[row.seq] = self._recorder.record_schedule(row)
        return self._recorded[row.seq]


def resolved_row(
    seq: int,
    at: ScheduledParameters,
    decision: Score,
    *,
    b: int,
    walk: WalkPosition,
    row_attempt: int,
    micro_batch: int,
    exclusions_digest: str | None = None,
) -> ScheduleRow:
    """Return the row of a decision; a rule that stands in for the learner changes method or criterion."""
    return ScheduleRow(
        seq=seq,
        row_attempt=row_attempt,
        rule=decision.rule,
        checkpoint=decision.checkpoint,
        method=Method.UNIFORM if decision.rule == "uniform" else Method(at.method),
        criterion=Criterion.EASY_REFERENCE if decision.rule == "easy_reference" else Criterion(at.criterion),
        f=at.f,
        B=at.super_batch_size(b),
        gain=at.gain,
        weights=at.weights,
        exclusions_digest=exclusions_digest,
        walk=walk,
        micro_batch=micro_batch,
    )


def selection_schedule(selection: SelectionSpec) -> SelectionSchedule:
    """Return the schedules of a job's selection."""
    return SelectionSchedule.parse(
        f=_written(selection.f),
        gain=_written(selection.gain),
        weights=_written(selection.weights),
        criterion=_written(selection.criterion),
        method=_written(selection.method),
    )


def largest_super_batch_of(spec: CurateSpec, *, from_seq: int) -> int:
    """Return the largest B over the batches that are still to be composed."""
    schedule = selection_schedule(spec.selection)
    seqs = {max(seq, from_seq) for seq in schedule.f.turning_seqs(stop_seq=spec.num_batches)}
    return max(schedule.at(seq).super_batch_size(spec.selection.b) for seq in seqs)


def _written(value: Plain | BaseModel) -> Plain | dict[str, object]:
    return value.model_dump() if isinstance(value, BaseModel) else value
