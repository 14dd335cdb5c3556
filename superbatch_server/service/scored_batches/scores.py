"""Score shards as arrays, read from the store and kept by their immutable keys.

Letters: B candidates of one super-batch, in the order of the draw.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from superbatch.formats.errors import SuperbatchError
from superbatch.formats.score_shard import NOT_CHOSEN, read_score_shard
from superbatch.formats.uid import UID_BYTES
from superbatch_server.schemas.errors import ObjectMissing, Unavailable
from superbatch_server.service.scored_batches.bounded_cache import BoundedCache
from superbatch_server.service.scored_batches.published import PublishedBatch
from superbatch_server.storage.store import ArtifactStore

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

CACHE_BYTES = 64 << 20
MAX_SHARD_BYTES = 128 << 20
"""A larger shard (some two million candidates) is not read for a page; nobody has one by accident."""

MAX_READERS = 2
"""Shards decoded at the same time."""


class Fate(StrEnum):
    """What became of a candidate."""

    CHOSEN = "chosen"
    NOT_CHOSEN = "not_chosen"
    EXCLUDED = "excluded"
    DROPPED = "dropped"


@dataclass(frozen=True, eq=False)
class Scores:
    """One super-batch; a value that the shard does not have is NaN."""

    dataset_index: npt.NDArray[np.int64]
    uids: bytes
    loss_learner: Floats
    loss_reference: Floats
    score: Floats
    perturbed: Floats
    round: npt.NDArray[np.int16]
    is_scored: bool

    def __len__(self) -> int:
        return len(self.round)

    @property
    def num_bytes(self) -> int:
        """Memory that the arrays take."""
        return len(self.uids) + len(self) * (8 + 4 * 4 + 2)

    @property
    def chosen(self) -> Bools:
        """Which candidates are in the batch."""
        return np.asarray(self.round != NOT_CHOSEN)

    @property
    def excluded(self) -> Bools:
        """Which were kept out by a rule: the repetition cap, a copy or a near-copy of a chosen row."""
        return np.isneginf(self.perturbed) & ~self.chosen

    @property
    def dropped(self) -> Bools:
        """Which have no score although the others do: their learner embedding was not finite."""
        return np.isnan(self.score) & ~self.chosen if self.is_scored else np.zeros(len(self), dtype=bool)

    def fate(self, place: int) -> Fate:
        """Return what became of the candidate at a place."""
        if self.chosen[place]:
            return Fate.CHOSEN
        if self.excluded[place]:
            return Fate.EXCLUDED
        return Fate.DROPPED if self.dropped[place] else Fate.NOT_CHOSEN

    def uid(self, place: int) -> str:
        """Return a candidate's uid in hexadecimal digits."""
        return self.uids[place * UID_BYTES : (place + 1) * UID_BYTES].hex()

    def place_of_index(self, dataset_index: int) -> int | None:
        """Return where a row stands among the candidates."""
        found = np.flatnonzero(self.dataset_index == dataset_index)
        return int(found[0]) if len(found) else None

    def place_of_uid(self, uid: bytes) -> int | None:
        """Return where the first candidate of a uid stands."""
        uid_Bx16 = np.frombuffer(self.uids, dtype=np.uint8).reshape(-1, UID_BYTES)
        found = np.flatnonzero((uid_Bx16 == np.frombuffer(uid, dtype=np.uint8)).all(axis=1))
        return int(found[0]) if len(found) else None


class ScoreReader:
    """Reads the score shards of published batches, and keeps the ones used last."""

    def __init__(self) -> None:
        self._cache: BoundedCache[Scores] = BoundedCache(max_bytes=CACHE_BYTES)
        self._readers = threading.BoundedSemaphore(MAX_READERS)

    def read(self, store: ArtifactStore, batch: PublishedBatch) -> Scores:
        """Return the scores of a batch.

        Raises:
            Unavailable: the score shard is not in the store, is damaged, too large, or of another data set.
        """
        key = batch.score_key
        if key is None:
            raise Unavailable(
                f"a batch must name its score shard; the segment of seq {batch.seq} names none (job {batch.job.id}). "
                "Restore the catalog."
            )

        def load() -> Scores:
            with self._readers:
                return _load(store, batch, key)

        return self._cache.get(key, load, lambda scores: scores.num_bytes)


def _load(store: ArtifactStore, batch: PublishedBatch, key: str) -> Scores:
    where = f"(store, key {key!r}, seq {batch.seq})"
    try:
        if (size := store.size(key)) > MAX_SHARD_BYTES:
            raise Unavailable(
                f"a score shard is shown up to {MAX_SHARD_BYTES} bytes; got {size} {where}. Read the file itself."
            )
        shard = read_score_shard(store.get(key))
    except ObjectMissing as error:
        raise Unavailable(
            f"a published batch's score shard must be in the store; got none {where}. "
            "Bring the store back as it was; its backup has the file under the same key."
        ) from error
    except Unavailable:
        raise
    except SuperbatchError as error:
        raise Unavailable(
            f"a score shard must be readable; {error} {where}. Bring the file back from the store's backup."
        ) from error
    if shard.fingerprint.hex() != batch.job.fingerprint:
        raise Unavailable(
            f"a score shard must be of the job's data set; got another fingerprint {where}. Restore the store."
        )
    return scores_of(shard.rows, is_scored=batch.is_scored)


def scores_of(rows: pa.RecordBatch, *, is_scored: bool) -> Scores:
    """Return the rows of a score shard as arrays; `is_scored`: False for a uniform batch."""
    return Scores(
        dataset_index=rows.column("dataset_index").to_numpy(),
        uids=b"".join(rows.column("uid").to_pylist()),
        loss_learner=_floats(rows, "loss_learner"),
        loss_reference=_floats(rows, "loss_reference"),
        score=_floats(rows, "score"),
        perturbed=_floats(rows, "perturbed_score"),
        round=rows.column("round").to_numpy(),
        is_scored=is_scored,
    )


def _floats(rows: pa.RecordBatch, name: str) -> Floats:
    return np.asarray(rows.column(name).to_numpy(zero_copy_only=False), dtype=np.float32)
