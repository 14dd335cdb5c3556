"""The trainer's side of a service, for a sample job: manifest, lists, shard table, roots, progress, checkpoints.

It answers as the real one does, with the same status and code for the same mistake, and fails on demand. It knows
nothing of sockets: `superbatch.conformance.http_server` serves it, and a test may call `answer` itself.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from superbatch.conformance.faults import ServerFaults
from superbatch.conformance.progress import Refused, Registry
from superbatch.conformance.sample_job import JOB, SampleJob
from superbatch.conformance.sample_shards import ROOT
from superbatch.formats.canonical import JsonValue, canonical_json
from superbatch.formats.errors import SuperbatchError
from superbatch.formats.manifest import Manifest, Policy, Revoked

SEGMENTS_PER_PAGE = 4
LONGEST_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request: the target with its query, header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query."""
        return urlsplit(self.target).path

    def query(self, name: str, default: str) -> str:
        """Return one parameter of the query."""
        return parse_qs(urlsplit(self.target).query).get(name, [default])[-1]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    MEDIA_TYPE: ClassVar[str] = "application/json"


class SampleService:
    """Answers requests about one sample job.

    Args:
        job: what is published.
        token: the bearer token that every request must carry.
        faults: how it misbehaves; may be replaced at any time.
        lists_per_s: lists that appear per second after the first four, counted from the first request for a manifest;
            None: all are there at once.
    """

    def __init__(
        self, job: SampleJob, *, token: str, faults: ServerFaults | None = None, lists_per_s: float | None = None
    ) -> None:
        self.job = job
        self.faults = ServerFaults() if faults is None else faults
        self.registry = Registry(job)
        self.restart_wanted = threading.Event()
        self.first_request_of_list: dict[str, threading.Event] = {
            segment.list_link.rpartition("/")[2]: threading.Event() for segment in job.segments
        }
        self._token = token
        self._lists_per_s = lists_per_s
        self._began_s: float | None = None
        self._lock = threading.Lock()
        self._num_requests = 0
        self._list_requests: Counter[str] = Counter()

    def answer(self, request: Request) -> Reply:
        """Return the answer to one request; blocks while a long poll has no news."""
        with self._lock:
            self._num_requests += 1
            is_busy = self.faults.busy_every and self._num_requests % self.faults.busy_every == 0
        time.sleep(self.faults.delay_s)
        if is_busy:
            return problem(503, "unavailable", "the sample service is busy, as the fault says; ask again")
        if request.headers.get("authorization") != f"Bearer {self._token}":
            return problem(401, "unauthorized", "every request must carry SUPERBATCH_TOKEN as its bearer token")
        try:
            return self._routed(request)
        except Refused as refused:
            return problem(refused.status, refused.code, refused.detail, refused.members)
        except (ValueError, KeyError, TypeError, SuperbatchError) as error:
            return problem(422, "validation", f"the request does not have the documented form: {error!r}")

    def _routed(self, request: Request) -> Reply:
        top, _, rest = request.path.removeprefix("/v1/jobs/").partition("/")
        if (request.method, request.path) == ("GET", "/v1/roots"):
            roots: list[JsonValue] = [{"name": ROOT, "url": self.job.folder.resolve().as_uri()}]
            return Reply(200, canonical_json({"roots": roots}))
        if top != JOB:
            return problem(404, "not_found", f"the sample service has one job, {JOB}; got {request.path}")
        kind, _, name = rest.partition("/")
        match request.method, kind:
            case "GET", "manifest":
                return self._manifest(request)
            case "GET", "shard-table":
                return Reply(200, canonical_json(self.job.shard_table.to_json()))
            case "GET", "lists" if name in self.job.lists:
                return self._list(request, name)
            case "PUT", "consumers" if name:
                report = self.registry.report(name, json.loads(request.body), next_seq=self._next_seq())
                return Reply(200, canonical_json(report))
            case "POST", "checkpoints":
                return Reply(202, canonical_json(self.registry.push(json.loads(request.body))))
        return problem(404, "not_found", f"the sample service has no {request.method} {request.path}")

    def _manifest(self, request: Request) -> Reply:
        if self._began_s is None:
            self._began_s = time.monotonic()
        after = int(request.query("after", "0"))
        stop_s = time.monotonic() + min(float(request.query("wait", "0")), LONGEST_WAIT_S)
        while True:
            self._check_cursor(request.query("history", self.job.history_id), after)
            manifest = self._page(after)
            content = canonical_json(manifest.to_json())
            headers = {"ETag": f'"{sha256(content).hexdigest()}"', "Cache-Control": "private, no-cache"}
            is_known = request.headers.get("if-none-match") == headers["ETag"]
            has_news = bool(manifest.segments) or manifest.end is not None
            if (has_news and not is_known) or time.monotonic() >= stop_s:
                return Reply(304, b"", headers) if is_known else Reply(200, content, headers)
            if self.faults.restart_at_seq is not None:
                self.restart_wanted.set()
            time.sleep(0.02)

    def _check_cursor(self, history_id: str, after: int) -> None:
        if history_id != self.job.history_id:
            raise Refused(409, "other_history", f"a cursor belongs to one log; got history {history_id!r}")
        if after > self._next_seq():
            raise Refused(422, "seq_beyond_log", f"after must not exceed the published batches; got {after}")
        if after < self.faults.oldest_seq:
            raise Refused(
                410,
                "behind_retention",
                f"batches are read from {self.faults.oldest_seq} on; got {after}",
                {"oldest_seq": self.faults.oldest_seq},
            )

    def _page(self, after: int) -> Manifest:
        next_seq, final_seq = self._next_seq(), len(self.job.batches)
        there = [each for each in self.job.segments if after < each.stop_seq <= next_seq]
        page = tuple(there[:SEGMENTS_PER_PAGE])
        is_cut = len(page) < len(there)
        return Manifest(
            job=JOB,
            history_id=self.job.history_id,
            dataset_fingerprint=self.job.shard_table.dataset_fingerprint,
            shard_table="shard-table",
            policy=Policy(method="joint", criterion="learnability", b=self.job.b, B=5 * self.job.b, f=0.8, N=4),
            reference_digest="04" * 32,
            eligible_digest="05" * 32,
            numerics_profile=None,
            oldest_seq=self.faults.oldest_seq,
            next_seq=next_seq,
            end="complete" if next_seq == final_seq else None,
            final_seq=final_seq if next_seq == final_seq else None,
            segments=page,
            revoked=self._revoked(),
            next_link=f"manifest?history={self.job.history_id}&after={page[-1].stop_seq}" if is_cut else None,
        )

    def _revoked(self) -> tuple[Revoked, ...]:
        found = {seq: f"skipped by the learner: {reason}" for seq, reason in self.registry.skipped.items()}
        if self.faults.revoked_seq is not None:
            found[self.faults.revoked_seq] = "it holds an excluded row"
        return tuple(Revoked(seq, 1, reason) for seq, reason in sorted(found.items()))

    def _next_seq(self) -> int:
        shown = self.job.segments
        if self._lists_per_s is not None and self._began_s is not None:
            shown = shown[: 4 + int((time.monotonic() - self._began_s) * self._lists_per_s)]
        if self.faults.restart_at_seq is not None:
            shown = tuple(each for each in shown if each.stop_seq <= self.faults.restart_at_seq)
        return shown[-1].stop_seq if shown else 0

    def _list(self, request: Request, name: str) -> Reply:
        content = self.job.lists[name]
        segment = next(each for each in self.job.segments if each.list_link.endswith(name))
        with self._lock:
            self._list_requests[name] += 1
            is_damaged = self._list_requests[name] <= self.faults.damaged_lists
        self.first_request_of_list[name].set()
        if is_damaged and segment.stop_seq > self.faults.damaged_from:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
        headers = {"ETag": f'"{name}"', "Accept-Ranges": "bytes", "Cache-Control": "max-age=31536000, immutable"}
        return _part(content, request.headers.get("range"), headers)


def _part(content: bytes, wanted: str | None, headers: dict[str, str]) -> Reply:
    """Return the whole list, or the single byte range that a Range header names."""
    first, dash, last = (wanted or "").removeprefix("bytes=").partition("-")
    if not dash or not (first + last).isdigit():
        return Reply(200, content, headers)
    start = int(first) if first else max(0, len(content) - int(last))
    stop = min(int(last) + 1, len(content)) if first and last else len(content)
    if start >= stop:
        return Reply(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
    return Reply(206, content[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})


def problem(status: int, code: str, detail: str, members: Mapping[str, JsonValue] | None = None) -> Reply:
    """Return an error as the service words it (RFC 9457)."""
    body: dict[str, JsonValue] = {"title": code, "status": status, "code": code, "detail": detail, **(members or {})}
    return Reply(status, canonical_json(body), {"Content-Type": "application/problem+json"})
