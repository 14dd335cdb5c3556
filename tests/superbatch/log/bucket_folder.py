"""The log of a FakeService as the files that the composer writes below a job's prefix."""

from __future__ import annotations

from pathlib import Path

from superbatch.formats.bucket import (
    LOG_END_NAME,
    LOG_HEAD_NAME,
    SHARD_TABLE_NAME,
    LogEnd,
    LogHead,
    LogSegment,
)
from superbatch.formats.canonical import canonical_json
from superbatch.formats.digests import log_digest_start
from tests.superbatch.formats.sample_batches import FINGERPRINT, a_shard_table
from tests.superbatch.log.fake_service import JOB, FakeService


def write_log(service: FakeService, folder: Path) -> Path:
    """Write everything that the service has published; what is there already stays as it is."""
    head = LogHead(JOB, service.history_id, FINGERPRINT.hex(), None, service.policy)
    create(folder / SHARD_TABLE_NAME, canonical_json(a_shard_table(100, 100).to_json()))
    create(folder / LOG_HEAD_NAME, head.render())
    start = log_digest_start(JOB, service.history_id).hex()
    for segment in service.segments:
        name = segment.list_link.rpartition("/")[2]
        create(folder / segment.list_link, service.lists[name])
        file = LogSegment(JOB, service.history_id, FINGERPRINT.hex(), start, segment)
        create(folder / file.name, file.render())
        start = segment.log_digest_end
    if service.end in ("complete", "cancelled"):
        create(folder / LOG_END_NAME, LogEnd(JOB, service.history_id, service.end, service.next_seq, start).render())
    return folder


def create(path: Path, content: bytes) -> None:
    """Create a file whole, unless it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(content)
        temporary.rename(path)
