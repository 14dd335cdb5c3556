"""A job's score shards as a page reads them: one connection, batches opened by seq, what could not be read kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from superbatch_server.schemas.errors import ApiError
from superbatch_server.service.context import Deployment
from superbatch_server.service.dashboard.scores.content import stored_caption
from superbatch_server.service.scored_batches.published import PublishedBatch, ScoredJob, find_batch, find_job
from superbatch_server.service.scored_batches.row_places import RowPlace
from superbatch_server.service.scored_batches.scores import Scores


@dataclass(frozen=True)
class OpenBatch:
    """A published batch with its scores."""

    batch: PublishedBatch
    scores: Scores

    @property
    def seq(self) -> int:
        """Position in the log."""
        return self.batch.seq


@dataclass
class JobReader:
    """Reads what one page needs; `unreadable` says why batches are missing on it."""

    connection: Connection
    deployment: Deployment
    job: ScoredJob
    unreadable: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, connection: Connection, deployment: Deployment, job_id: str) -> JobReader:
        """Return a reader of a job. Raises: NotFound."""
        return cls(connection, deployment, find_job(connection, job_id))

    @property
    def seqs(self) -> range:
        """The batches that are kept."""
        return range(self.job.oldest_seq, self.job.next_seq)

    def open(self, seq: int) -> OpenBatch:
        """Return a batch. Raises: NotFound, BehindRetention, Unavailable."""
        batch = find_batch(self.connection, self.job, seq)
        return OpenBatch(batch, self.deployment.scored_batches.scores.read(self.deployment.store, batch))

    def try_open(self, seq: int) -> OpenBatch | None:
        """Return a batch, None for one that cannot be read."""
        try:
            return self.open(seq)
        except ApiError as error:
            self.unreadable[seq] = str(error)
            return None

    def try_scores(self, seq: int) -> Scores | None:
        """Return the scores of a batch, None where they cannot be read."""
        found = self.try_open(seq)
        return found.scores if found else None

    def describe(self, dataset_indexes: Iterable[int]) -> dict[int, RowPlace]:
        """Return rows of the data set with their captions, by dataset_index."""
        rows = self.deployment.scored_batches.rows
        found = rows.describe(self.connection, self.deployment.store, self.job.dataset_id, dataset_indexes)
        return {index: self._with_caption(row) for index, row in found.items()}

    def read_note(self, asked: Sequence[int]) -> str:
        """Return why some of the asked batches are missing; empty when none is."""
        missing = [seq for seq in asked if seq in self.unreadable]
        if not missing:
            return ""
        return f"{len(missing):,} of {len(asked):,} batches could not be read. {self.unreadable[missing[0]]}"

    def _with_caption(self, row: RowPlace) -> RowPlace:
        if row.caption is not None or not row.is_indexed:
            return row
        return stored_caption(self.deployment.roots, self.job.root, row)
