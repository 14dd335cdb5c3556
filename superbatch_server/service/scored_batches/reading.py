"""What routes and pages read published batches with: the readers of scores and of rows, made once per deployment."""

from __future__ import annotations

from dataclasses import dataclass, field

from superbatch_server.service.scored_batches.rows import RowDirectory
from superbatch_server.service.scored_batches.scores import ScoreReader


@dataclass(frozen=True)
class ScoredBatches:
    """Both keep what was used last in memory: at most 64 MiB of scores, of shard lists and of index files each."""

    scores: ScoreReader = field(default_factory=ScoreReader)
    rows: RowDirectory = field(default_factory=RowDirectory)
