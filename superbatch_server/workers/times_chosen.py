"""How often each example was chosen so far: what a repetition cap is held against.

An example is its content (uid): copies of a row, wherever they stand, share one count. The counts are a function of the
published log alone, so an attempt that goes on after another one first reads the log's lists.

Letters: B candidates, n rows chosen, m examples known.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from superbatch.formats.batch_list import read_uids
from superbatch.formats.bucket import LogSegment, log_segment_name
from superbatch.formats.errors import DigestMismatch
from superbatch_server.storage.store import ArtifactStore
from superbatch_server.workers.byte_rows import byte_rows

Uids = npt.NDArray[np.uint8]


class TimesChosen:
    """Counts by uid, 12 bytes per example that was ever chosen.

    Examples are told apart by the first 8 bytes of their uid, which is a digest: of 10^8 examples two share them with a
    probability of 3 in 10,000. Such two share one count, so that no example ever passes its cap.
    """

    def __init__(self) -> None:
        self._key_m = np.empty(0, dtype=np.uint64)
        self._times_m = np.empty(0, dtype=np.int32)

    def add(self, uid_n16: Uids) -> None:
        """Count each of these once more. Cost: O(n log m), and one copy of the counts."""
        key_n, more_n = np.unique(_keys(uid_n16), return_counts=True)
        at_n = np.searchsorted(self._key_m, key_n)
        known_n = self._is_at(at_n, key_n)
        self._times_m[at_n[known_n]] += more_n[known_n].astype(np.int32)
        self._key_m = np.insert(self._key_m, at_n[~known_n], key_n[~known_n])
        self._times_m = np.insert(self._times_m, at_n[~known_n], more_n[~known_n])

    def of(self, uid_B16: Uids) -> npt.NDArray[np.int64]:
        """Return how often each of these was chosen."""
        key_B = _keys(uid_B16)
        at_B = np.searchsorted(self._key_m, key_B)
        times_B = np.zeros(len(key_B), dtype=np.int64)
        known_B = self._is_at(at_B, key_B)
        times_B[known_B] = self._times_m[at_B[known_B]]
        return times_B

    def _is_at(self, at_n: npt.NDArray[np.int64], key_n: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        inside_n = at_n < len(self._key_m)
        inside_n[inside_n] = self._key_m[at_n[inside_n]] == key_n[inside_n]
        return inside_n


def read_times_chosen(store: ArtifactStore, *, prefix: str, stop_seq: int) -> TimesChosen:
    """Return the counts over the published batches [0, stop_seq), read from the log in the store.

    Args:
        prefix: of the job's log.
    Raises: ObjectMissing, when the log is not whole; DigestMismatch and CorruptFile, when a list is not as published.
    Cost: every list of the job is read once.
    """
    uid_n16 = np.concatenate([np.empty((0, 16), np.uint8), *_published(store, prefix=prefix, stop_seq=stop_seq)])
    counts = TimesChosen()
    counts.add(uid_n16)
    return counts


def _published(store: ArtifactStore, *, prefix: str, stop_seq: int) -> Iterator[Uids]:
    seq = 0
    while seq < stop_seq:
        segment = LogSegment.parse(store.get(f"{prefix}/{log_segment_name(seq)}")).segment
        data = store.get(f"{prefix}/{segment.list_link}")
        if (found := sha256(data).hexdigest()) != segment.sha256:
            raise DigestMismatch(
                f"a published list must have the sha256 that its log states, {segment.sha256}; got {found} "
                f"({segment.list_link}, first_seq {seq}). Bring the store back as it was; its backup has the file."
            )
        yield byte_rows(read_uids(data))
        seq = segment.stop_seq


def _keys(uid_n16: Uids) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(uid_n16[:, :8]).view("<u8").reshape(-1)
