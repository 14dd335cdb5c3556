"""Fetches the batch list of a segment from the cache or the source of the log, and proves it."""

from __future__ import annotations

from hashlib import sha256

from superbatch.formats.batch_list import BatchListReader
from superbatch.formats.errors import CorruptFile, DigestMismatch
from superbatch.formats.segments import Segment
from superbatch.log.list_cache import ListCache
from superbatch.log.source import LogSource

_NUM_ATTEMPTS = 3


def fetch_list(segment: Segment, *, source: LogSource, cache: ListCache | None, fingerprint: str) -> BatchListReader:
    """Return the list of a segment, with the length and sha256 that the manifest states.

    A list that arrives damaged is fetched again.

    Args:
        segment: what the manifest says.
        source: where the log is.
        cache: where lists are kept; None for nowhere.
        fingerprint: dataset fingerprint, 64 hexadecimal digits.
    Raises:
        DigestMismatch: other bytes than those published, three times.
        CorruptFile: the list is of another dataset or does not hold the segment's batches.
        ServiceError, ServiceUnreachable: see LogSource.
    """
    data = None if cache is None else cache.get(segment.sha256)
    if data is None:
        data = _download(segment, source)
        if cache is not None:
            cache.put(segment.sha256, data)
    reader = BatchListReader(data)
    stop_seq = reader.first_seq + reader.num_batches
    if (
        reader.fingerprint.hex() != fingerprint
        or not reader.first_seq <= segment.first_seq < segment.stop_seq <= stop_seq
    ):
        raise CorruptFile(
            f"a list must hold the batches of its segment, {segment.first_seq} to {segment.stop_seq - 1} of dataset "
            f"{fingerprint}; got {reader.first_seq} to {stop_seq - 1} of {reader.fingerprint.hex()} "
            f"({segment.list_link}). "
            "Open the log again from the saved state."
        )
    return reader


def _download(segment: Segment, source: LogSource) -> bytes:
    found = ""
    for failures in range(1, _NUM_ATTEMPTS + 1):
        try:
            data = source.content(segment.list_link, max_bytes=segment.num_bytes)
        except CorruptFile as error:
            found = str(error)
        else:
            if len(data) == segment.num_bytes and sha256(data).hexdigest() == segment.sha256:
                return data
            found = f"{len(data)} bytes with {sha256(data).hexdigest()}"
        if failures < _NUM_ATTEMPTS:
            source.pause(failures)
    raise DigestMismatch(
        f"a list must be what was published, {segment.num_bytes} bytes with sha256 {segment.sha256}; got {found} "
        f"({segment.list_link}, {_NUM_ATTEMPTS} tries). Restore the list in the service's store."
    )
