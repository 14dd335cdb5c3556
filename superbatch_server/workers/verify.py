"""Whether a pushed checkpoint may score: some fixed rows of the data set must get finite embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from superbatch_server.schemas.attempts import CheckpointCandidate, CheckpointVerdict
from superbatch_server.schemas.models import Model
from superbatch_server.workers.candidates import CandidateTables
from superbatch_server.workers.compose import finite_rows
from superbatch_server.workers.executors import Executor
from superbatch_server.workers.model_files import model_files
from superbatch_server.workers.pool import Pool
from superbatch_server.workers.row_scorer import ScoringFailed

NUM_FIXED_ROWS = 256


class CheckpointVerifier:
    """Tries checkpoints on the first eligible rows of the shards in `order`: the same rows in every attempt."""

    def __init__(
        self,
        executor: Executor,
        pool: Pool,
        tables: CandidateTables,
        *,
        learner: Model,
        order: Sequence[int],
        micro_batch: int,
        num_rows: int = NUM_FIXED_ROWS,
    ) -> None:
        self._executor, self._pool, self._tables = executor, pool, tables
        self._learner, self._order = learner, order
        self._micro_batch, self._num_rows = micro_batch, num_rows

    def verdict(self, candidate: CheckpointCandidate) -> CheckpointVerdict:
        """Return the verdict; files that are gone, changed or make no model are a reason too.

        Raises: ScoringFailed when not the checkpoint but rows, memory or a storage are at fault.
        """
        index_n = np.array(self._pool.fixed_rows(self._num_rows, order=self._order), dtype=np.int64)
        if len(index_n) == 0:
            return CheckpointVerdict(ok=True)
        rows = self._tables.references(self._tables.table(index_n))
        files = model_files(self._learner, weights=candidate.files[0])
        try:
            found = self._executor.embed_rows(files, rows, micro_batch=self._micro_batch)
        except ScoringFailed as error:
            if error.cause != "model":
                raise
            return CheckpointVerdict(ok=False, reason=f"{error.error_code}: {error.message}")
        bad = int((~finite_rows(found)).sum())
        if bad == 0:
            return CheckpointVerdict(ok=True)
        return CheckpointVerdict(
            ok=False,
            reason=f"not_finite: all of {len(index_n)} fixed rows must have finite embeddings; {bad} have none. "
            "Look for a learner that diverged, and push an earlier checkpoint",
        )
