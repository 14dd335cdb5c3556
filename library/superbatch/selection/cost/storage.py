"""Bytes that a curated run keeps in the store, and what it reads of the data.

Bytes for each row of our own files are measured, zstd included, on web-like rows: random contents, 10,000 rows a
shard, blocks of 256 out of 128 million rows. A test keeps them within a tenth of what the formats take.

Letters: M rows of the data set, B candidates, b chosen, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from superbatch.selection.cost.products import embedding_bytes
from superbatch.selection.cost.steps import Policy
from superbatch.selection.cost.workload import Workload

STORED_BYTES_PER_NUMBER = 2
"""Embeddings are stored as fp16."""
HELD_BYTES_PER_NUMBER = 4
"""The composer holds them as fp32."""
INDEX_BYTES_PER_ROW = 100
"""Two digests, places, caption: 67 with captions of 10 bytes; longer ones add about half their length."""
LIST_BYTES_PER_ROW = 57
SCORE_BYTES_PER_CANDIDATE = 32
LARGEST_JOINED_GAP_BYTES = 512 * 1024
"""Rows of a shard that lie closer are read by one request."""


@dataclass(frozen=True)
class Storage:
    """Bytes in the store at the end of the run."""

    reference_embeddings_bytes: int
    index_bytes: int
    batch_lists_bytes: int
    score_shards_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.reference_embeddings_bytes + self.index_bytes + self.batch_lists_bytes + self.score_shards_bytes


@dataclass(frozen=True)
class StepReads:
    """What one step reads: rows of the data by the scorers and by the trainer, and embeddings by the composer.

    A request is a contiguous byte range of a shard, one GET of an object store.
    """

    scoring_rows: int
    scoring_bytes: float
    scoring_requests: int
    training_rows: int
    training_bytes: float
    training_requests: int
    embedding_bytes: int


def storage(policy: Policy, work: Workload) -> Storage:
    """Return what the store holds after the run; a plain loader needs none of it.

    The index and the reference's embeddings are of the whole pool and serve every later job over the same data with
    the same reference. A service keeps a batch list and a score shard for each batch.
    """
    cached = policy.reference == "cached"
    listed = work.num_batches if policy.selected_by == "service" else 0
    return Storage(
        reference_embeddings_bytes=embedding_bytes(
            rows=work.rows if cached else 0,
            widths=[work.reference.width],
            bytes_per_number=STORED_BYTES_PER_NUMBER,
        ),
        index_bytes=work.rows * INDEX_BYTES_PER_ROW if policy.selected_by != "loader" else 0,
        batch_lists_bytes=listed * work.b * LIST_BYTES_PER_ROW,
        score_shards_bytes=listed * work.B * SCORE_BYTES_PER_CANDIDATE,
    )


def step_reads(policy: Policy, work: Workload) -> StepReads:
    """Return what one step reads.

    Candidates come in blocks of consecutive rows, so scoring asks once for each block. The trainer's rows are the
    chosen of those blocks: one request for each block where the gaps between them are joined, else one for each row. A
    trainer that scores by itself has the chosen already.
    """
    scored = work.B if policy.scores_with_learner or policy.reference == "online" else 0
    trained = 0 if scored and policy.selected_by == "trainer" else work.b
    return StepReads(
        scoring_rows=scored,
        scoring_bytes=scored * work.example_bytes,
        scoring_requests=_blocks(scored, work.block_rows),
        training_rows=trained,
        training_bytes=trained * work.example_bytes,
        training_requests=_training_requests(policy, work) if trained else 0,
        embedding_bytes=_step_embedding_bytes(policy, work),
    )


def _training_requests(policy: Policy, work: Workload) -> int:
    if policy.selected_by == "loader":
        return _blocks(work.b, work.block_rows)
    gap_bytes = (work.B / work.b - 1) * work.example_bytes
    joined = gap_bytes <= LARGEST_JOINED_GAP_BYTES
    return min(work.b, _blocks(work.B, work.block_rows)) if joined else work.b


def _step_embedding_bytes(policy: Policy, work: Workload) -> int:
    """Return what reaches the composer: the learner's from the scorers, a cached reference's from the store."""
    learner = [work.learner.width] if policy.scores_with_learner else []
    online = [work.reference.width] if policy.reference == "online" else []
    cached = [work.reference.width] if policy.reference == "cached" else []
    computed = embedding_bytes(rows=work.B, widths=learner + online, bytes_per_number=HELD_BYTES_PER_NUMBER)
    return computed + embedding_bytes(rows=work.B, widths=cached, bytes_per_number=STORED_BYTES_PER_NUMBER)


def _blocks(rows: int, block_rows: int) -> int:
    return -(-rows // block_rows)
