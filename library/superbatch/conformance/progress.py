"""The trainers of a sample job: what they report, and what a service refuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import cast

from superbatch.conformance.sample_job import JOB, SampleJob
from superbatch.formats.canonical import JsonObject, JsonValue, canonical_json
from superbatch.formats.json_fields import JsonFields


class Refused(Exception):
    """A request that the service refuses, with the members of its problem body."""

    def __init__(self, status: int, code: str, detail: str, members: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__(status, code, detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.members = members or {}


@dataclass
class Registry:
    """Registered trainers by name, the batches that a learner skipped, and every report that was refused."""

    job: SampleJob
    reports: dict[str, JsonObject] = field(default_factory=dict)
    expires_s: dict[str, float] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    checkpoints: dict[str, JsonObject] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, name: str, body: JsonObject, *, next_seq: int) -> JsonObject:
        """Take a report that follows the rules of the contract.

        Raises:
            Refused: with the status and code of the service.
            CorruptFile: a field is missing or of another type.
        """
        with self.lock:
            try:
                self._check(name, JsonFields(body, "report"), next_seq)
            except Refused as refused:
                self.refusals.append(f"{refused.status} {refused.code}: {refused.detail}")
                raise
            self.reports[name] = body
            self.expires_s[name] = time.monotonic() + cast("float", body.get("ttl_s", 120.0))
            for skipped in cast("list[JsonObject]", body.get("skipped") or []):
                self.skipped[cast("int", skipped["seq"])] = str(skipped["reason"])
        return {"name": name, "report": body, "expires_at": "2026-01-01T00:00:00Z", "is_live": True}

    def push(self, body: JsonObject) -> JsonObject:
        """Take a checkpoint without looking at its file."""
        fields = JsonFields(body, "checkpoint")
        checkpoint_id = "ckp_" + sha256(canonical_json(body)).hexdigest()[:16]
        taken: JsonObject = {
            "id": checkpoint_id,
            "job": JOB,
            "state": "RECEIVED",
            "trained_seq": fields.integer("trained_seq"),
        }
        with self.lock:
            self.checkpoints[checkpoint_id] = taken
        return taken

    def _check(self, name: str, fields: JsonFields, next_seq: int) -> None:
        parts = fields.integer("world_size", minimum=1) * fields.integer("accumulation", minimum=1)
        trained, delivered = fields.integer("trained_seq"), fields.integer("delivered_seq")
        if not fields.integer("durable_seq") <= trained <= delivered:
            raise Refused(422, "validation", f"durable_seq <= trained_seq <= delivered_seq; got {fields.value}")
        if self.job.b % parts:
            raise Refused(
                422,
                "world_size_does_not_divide",
                f"b must be divisible by world_size * accumulation; got b = {self.job.b}, {parts} parts, "
                f"remainder {self.job.b % parts}",
            )
        if delivered > next_seq:
            raise Refused(422, "seq_beyond_log", f"delivered_seq must not exceed {next_seq}; got {delivered}")
        if self.job.log_digests[trained].hex() != fields.text("log_digest"):
            raise Refused(409, "other_history", f"log_digest must be this job's after {trained} batches")
        if fields.text("role") == "learner":
            self._check_learner(name, trained, has_gone_back=fields.value.get("rewind") is True)

    def _check_learner(self, name: str, trained: int, *, has_gone_back: bool) -> None:
        learners = [known for known, report in self.reports.items() if report["role"] == "learner"]
        for other in learners:
            if other != name and self.expires_s[other] > time.monotonic():
                raise Refused(409, "second_learner", f"a job has one learner; {other!r} is registered")
        before = max((cast("int", self.reports[known]["trained_seq"]) for known in learners), default=0)
        if trained < before and not has_gone_back:
            raise Refused(409, "went_back", f"trained_seq must not fall; got {trained} after {before} without rewind")
