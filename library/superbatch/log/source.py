"""Where the log of one job is read from: the service, or the same files in a folder or bucket."""

from __future__ import annotations

from typing import Protocol

from superbatch.formats.errors import CorruptFile
from superbatch.formats.manifest import Manifest
from superbatch.formats.shards import ShardTable

MAX_DOCUMENT_BYTES = 256 << 20


class LogSource(Protocol):
    """A place that holds the log of a job.

    The law: at the same seq every source of one log gives the same segments, and the same bytes behind each link.
    Nothing that a source gives is trusted: `SegmentFollower` and `fetch_list` prove it, for all sources alike.
    A source may be used by two threads at once.
    """

    def manifest(self, next_seq: int, *, history_id: str | None, wait_s: float) -> Manifest | None:
        """Return the head of the log and its segments from the one that holds batch `next_seq` on.

        It is held back for up to wait_s seconds until there is a segment or an end. None: no log is there yet.

        Raises:
            HistoryChanged: the log is of another job or history, or was begun anew.
            BehindRetention: batch `next_seq` is no longer kept.
            CorruptFile: a document that is none.
            ServiceError, ServiceUnreachable: refused, or no answer after all tries.
        """

    def content(self, link: str, *, max_bytes: int) -> bytes:
        """Return what lies behind a link of the manifest.

        Raises:
            CorruptFile: more than max_bytes, or nothing where the log says that something is.
            InvalidInput: a link that leads elsewhere.
            ServiceError, ServiceUnreachable: as `manifest`.
        """

    def pause(self, failures: int) -> None:
        """Wait before something that failed `failures` times is tried again."""

    def close(self) -> None:
        """Give back what was opened."""


def fetch_shard_table(source: LogSource, manifest: Manifest) -> ShardTable:
    """Return the shard table that a manifest links to.

    Raises:
        CorruptFile: it is not that of the manifest's dataset.
    """
    content = source.content(manifest.shard_table, max_bytes=MAX_DOCUMENT_BYTES)
    table = ShardTable.from_json(content, where=f"shard table of job {manifest.job}")
    if table.dataset_fingerprint != manifest.dataset_fingerprint:
        raise CorruptFile(
            f"the shard table must be of dataset {manifest.dataset_fingerprint}; got {table.dataset_fingerprint} "
            f"(job {manifest.job}). Open the log again from the saved state."
        )
    return table
