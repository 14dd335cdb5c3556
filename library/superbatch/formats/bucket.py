"""The log as plain files below a job's prefix, for a reader with no network path to the service.

log/head.json                     what never changes: whose log it is, dataset and policy; before the first segment
log/shards.json                   the shard table of the dataset
log/<first_seq, 12 digits>.json   one segment; written once, after its commit
log/end.json                      how the log ended
lists/<name>.parquet              the batch lists that the segments link to
A reader polls one known name: the segment at its next seq.
"""

from __future__ import annotations

from dataclasses import dataclass

from superbatch.formats.canonical import JsonObject, JsonValue, canonical_json
from superbatch.formats.errors import InvalidInput
from superbatch.formats.json_fields import FORMAT_VERSION, as_fields
from superbatch.formats.manifest import ENDS, Policy, policy_from
from superbatch.formats.segments import Segment, segment_from

LOG_HEAD_NAME = "log/head.json"
SHARD_TABLE_NAME = "log/shards.json"
LOG_END_NAME = "log/end.json"


def log_segment_name(first_seq: int) -> str:
    """Return the name of the file that holds the segment starting at `first_seq`: log/000000000012.json.

    Raises:
        InvalidInput: a seq that does not fit 12 digits.
    """
    if not 0 <= first_seq < 10**12:
        raise InvalidInput(f"first_seq must be in [0, 10^12); got {first_seq}. Count batches from 0.")
    return f"log/{first_seq:012d}.json"


@dataclass(frozen=True, slots=True)
class LogHead:
    """What never changes about a log: the job, its history, dataset, reference model and policy, as in the manifest."""

    job: str
    history_id: str
    dataset_fingerprint: str
    reference_digest: str | None
    policy: Policy

    def render(self) -> bytes:
        """Return the bytes of log/head.json."""
        members: dict[str, JsonValue] = {
            "format_version": FORMAT_VERSION,
            "job": self.job,
            "history_id": self.history_id,
            "dataset_fingerprint": self.dataset_fingerprint,
            "reference_digest": self.reference_digest,
            "policy": self.policy.to_json(),
        }
        return canonical_json(members)

    @classmethod
    def parse(cls, source: JsonObject | bytes | str, *, where: str = LOG_HEAD_NAME) -> LogHead:
        """Return the head in a file that `render` wrote; unknown keys are ignored.

        Raises:
            CorruptFile: not JSON, or a field missing or of another type.
            UnsupportedVersion: another major version.
        """
        fields = as_fields(source, where=where)
        fields.check_version()
        return cls(
            job=fields.text("job"),
            history_id=fields.text("history_id"),
            dataset_fingerprint=fields.sha256_hex("dataset_fingerprint"),
            reference_digest=fields.optional_sha256_hex("reference_digest"),
            policy=policy_from(fields.object("policy")),
        )


@dataclass(frozen=True, slots=True)
class LogSegment:
    """One segment as a file of its own.

    log_digest_start: log digest before the first batch of the segment, 64 hexadecimal digits.
    The link of the segment's list is relative to the job's prefix, as in the manifest.
    """

    job: str
    history_id: str
    dataset_fingerprint: str
    log_digest_start: str
    segment: Segment

    @property
    def name(self) -> str:
        """Where the file lies below the job's prefix."""
        return log_segment_name(self.segment.first_seq)

    def render(self) -> bytes:
        """Return the bytes of the file; the same segment always gives the same bytes."""
        return canonical_json(
            {
                "format_version": FORMAT_VERSION,
                "job": self.job,
                "history_id": self.history_id,
                "dataset_fingerprint": self.dataset_fingerprint,
                "log_digest_start": self.log_digest_start,
                "segment": self.segment.to_json(),
            }
        )

    @classmethod
    def parse(cls, source: JsonObject | bytes | str, *, where: str = "log segment") -> LogSegment:
        """Return the segment in a file that `render` wrote; unknown keys are ignored.

        Raises:
            CorruptFile: not JSON, or a field missing or of another type.
            UnsupportedVersion: another major version.
        """
        fields = as_fields(source, where=where)
        fields.check_version()
        return cls(
            job=fields.text("job"),
            history_id=fields.text("history_id"),
            dataset_fingerprint=fields.sha256_hex("dataset_fingerprint"),
            log_digest_start=fields.sha256_hex("log_digest_start"),
            segment=segment_from(fields.object("segment")),
        )


@dataclass(frozen=True, slots=True)
class LogEnd:
    """How a log ended: complete, cancelled or failed, after final_seq batches with this log digest."""

    job: str
    history_id: str
    end: str
    final_seq: int
    log_digest: str

    def render(self) -> bytes:
        """Return the bytes of log/end.json."""
        members: dict[str, JsonValue] = {
            "format_version": FORMAT_VERSION,
            "job": self.job,
            "history_id": self.history_id,
            "end": self.end,
            "final_seq": self.final_seq,
            "log_digest": self.log_digest,
        }
        return canonical_json(members)

    @classmethod
    def parse(cls, source: JsonObject | bytes | str, *, where: str = LOG_END_NAME) -> LogEnd:
        """Return the end in a file that `render` wrote; unknown keys are ignored.

        Raises:
            CorruptFile: not JSON, or a field missing or of another type.
            UnsupportedVersion: another major version.
        """
        fields = as_fields(source, where=where)
        fields.check_version()
        return cls(
            job=fields.text("job"),
            history_id=fields.text("history_id"),
            end=fields.choice("end", ENDS),
            final_seq=fields.integer("final_seq"),
            log_digest=fields.sha256_hex("log_digest"),
        )
