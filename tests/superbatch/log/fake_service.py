"""A service in memory: publishes the batches it is given, answers like the real one, and fails on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256

import httpx
import pyarrow as pa

from superbatch.formats.batch_list import BatchListReader, list_name, write_batch_list
from superbatch.formats.canonical import canonical_json
from superbatch.formats.digests import log_digest_start, next_log_digest
from superbatch.formats.manifest import Manifest, Policy, Revoked, ScoredWith, Segment
from tests.superbatch.formats.sample_batches import FINGERPRINT, a_batch, a_manifest, a_shard_table

JOB = "job_1"
TOKEN = "secret"
Hook = Callable[[httpx.Request], httpx.Response | None]


@dataclass
class FakeService:
    """Answers the routes that a trainer uses; `hooks` see each request first and may answer it themselves."""

    history_id: str = "h1"
    oldest_seq: int = 0
    end: str | None = None
    page: int = 3
    b: int = 4
    segments: list[Segment] = field(default_factory=list)
    revoked: tuple[Revoked, ...] = ()
    lists: dict[str, bytes] = field(default_factory=dict)
    reports: list[dict[str, object]] = field(default_factory=list)
    checkpoints: list[dict[str, object]] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)
    hooks: list[Hook] = field(default_factory=list)

    @property
    def next_seq(self) -> int:
        return self.segments[-1].stop_seq if self.segments else 0

    @property
    def policy(self) -> Policy:
        return replace(a_manifest().policy, b=self.b)

    def publish(self, *batches: pa.Table, generation: int = 0) -> None:
        """Publish one list of these batches."""
        data = write_batch_list(batches, fingerprint=FINGERPRINT)
        reader, digest = BatchListReader(data), self.log_digest()
        for each in reader.batch_digests:
            digest = next_log_digest(digest, each)
        name = list_name(reader.first_seq, reader.first_seq + len(batches), sha256(data).hexdigest())
        self.lists[name] = data
        self.segments.append(
            Segment(
                first_seq=reader.first_seq,
                num_batches=len(batches),
                f=(0.8,) * len(batches),
                B=(20,) * len(batches),
                list_link=f"lists/{name}",
                num_bytes=len(data),
                sha256=sha256(data).hexdigest(),
                generation=generation,
                scored_with=ScoredWith("ckp_1", 0, "02" * 32) if generation else None,
                rule=None if generation else "easy_reference",
                log_digest_end=digest.hex(),
            )
        )

    def publish_all(self, num_batches: int, *, per_list: int = 1) -> None:
        """Publish further batches in lists of `per_list`, and end the job."""
        stop = self.next_seq + num_batches
        while self.next_seq < stop:
            seqs = range(self.next_seq, min(stop, self.next_seq + per_list))
            self.publish(*(a_batch(seq, self.b) for seq in seqs), generation=self.next_seq // 4)
        self.end = "complete"

    def log_digest(self) -> bytes:
        return (
            bytes.fromhex(self.segments[-1].log_digest_end) if self.segments else log_digest_start(JOB, self.history_id)
        )

    def manifest(self, after: int) -> Manifest:
        there = tuple(segment for segment in self.segments if segment.stop_seq > after)
        return replace(
            a_manifest(),
            job=JOB,
            history_id=self.history_id,
            policy=self.policy,
            oldest_seq=self.oldest_seq,
            next_seq=self.next_seq,
            end=self.end,
            final_seq=None if self.end is None else self.next_seq,
            segments=there[: self.page],
            revoked=self.revoked,
        )

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        for hook in self.hooks:
            found = hook(request)
            if found is not None:
                return found
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return problem(401, "unauthorized", "a bearer token is needed")
        path = request.url.path
        if path == f"/v1/jobs/{JOB}/manifest":
            return self._manifest(request)
        if path.startswith(f"/v1/jobs/{JOB}/lists/"):
            return httpx.Response(200, content=self.lists[path.rpartition("/")[2]])
        if path == f"/v1/jobs/{JOB}/shard-table":
            return httpx.Response(200, content=canonical_json(a_shard_table(100, 100).to_json()))
        if path == "/v1/roots":
            urls = [{"name": "pool", "url": "file:///data/my%20pool"}, {"name": "far", "url": "s3://bucket/x"}]
            return httpx.Response(200, json={"roots": urls})
        body = json.loads(request.content)
        if path.startswith(f"/v1/jobs/{JOB}/consumers/"):
            self.reports.append({"name": path.rpartition("/")[2], **body})
            return httpx.Response(200, json={})
        if path == f"/v1/jobs/{JOB}/checkpoints":
            self.checkpoints.append(body)
            return httpx.Response(202, json={"id": "ckp_9", "state": "RECEIVED", **body})
        return problem(404, "not_found", path)

    def _manifest(self, request: httpx.Request) -> httpx.Response:
        after = int(request.url.params["after"])
        if request.url.params.get("history", self.history_id) != self.history_id:
            return problem(409, "other_history", "the log was begun anew")
        if after < self.oldest_seq:
            return problem(410, "behind_retention", "those batches are gone", oldest_seq=self.oldest_seq)
        content = canonical_json(self.manifest(after).to_json())
        etag = f'"{sha256(content).hexdigest()[:8]}"'
        if request.headers.get("If-None-Match") == etag:
            return httpx.Response(304, headers={"ETag": etag})
        return httpx.Response(200, content=content, headers={"ETag": etag})


def problem(status: int, code: str, detail: str, **further: object) -> httpx.Response:
    """An RFC 9457 answer."""
    return httpx.Response(status, json={"title": code, "status": status, "code": code, "detail": detail, **further})
