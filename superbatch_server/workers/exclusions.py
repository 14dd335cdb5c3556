"""The pool without the rows that a job leaves out.

The walk steps over an excluded row as it does over an ineligible one, so neither its bytes are read nor its embedding
asked for, and a super-batch is as large as without exclusions. Letters: n rows of one shard, m excluded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from superbatch.formats.uid import UID_BYTES
from superbatch_server.schemas.attempts import ExclusionSet
from superbatch_server.workers.byte_rows import byte_rows
from superbatch_server.workers.pool import Pool
from superbatch_server.workers.walk import WalkPool, WalkRows


class ExcludingPool:
    """A pool for the walk, less one set of excluded rows."""

    def __init__(self, pool: Pool, excluded: ExclusionSet) -> None:
        self._pool = pool
        self._key_m = np.sort(_keys(np.frombuffer(bytes.fromhex(excluded.uids), dtype=np.uint8)))
        self._rows: dict[int, WalkRows] = {}

    def rows_of(self, shard_id: int) -> WalkRows:
        """Return what the walk needs of a shard; which rows are excluded is worked out once per shard."""
        if shard_id not in self._rows:
            rows = self._pool.rows_of(shard_id)
            key_n = _keys(byte_rows(self._pool.index_of(shard_id).column("uid")))
            is_excluded_n = rows.eligible & np.isin(key_n, self._key_m)
            self._rows[shard_id] = WalkRows(rows.eligible & ~is_excluded_n, rows.content, is_excluded_n)
        return self._rows[shard_id]


class ExcludingPools:
    """The pool that belongs to the digest of a schedule row; the one used last is kept."""

    def __init__(self, pool: Pool, fetch: Callable[[str], ExclusionSet]) -> None:
        self._pool, self._fetch = pool, fetch
        self._last: tuple[str, ExcludingPool] | None = None

    def under(self, digest: str | None) -> WalkPool:
        """Return the pool without the rows of this set; the whole pool for None."""
        if digest is None:
            return self._pool
        if self._last is None or self._last[0] != digest:
            self._last = digest, ExcludingPool(self._pool, self._fetch(digest))
        return self._last[1]


def _keys(uids: npt.NDArray[np.uint8]) -> npt.NDArray[np.bytes_]:
    """Return uids as values that compare by their bytes; all have one width, so zero bytes at the end do no harm."""
    return np.ascontiguousarray(uids).reshape(-1).view(f"S{UID_BYTES}")
