"""The driver's side of the internal API: calls fenced by (job, token), repeated through a restart of the service."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic, sleep
from types import TracebackType
from typing import Self, TypeVar

import httpx

from superbatch.formats.errors import ServiceError, ServiceUnreachable
from superbatch_server.schemas.attempts import (
    AttemptBundle,
    CacheEntry,
    CacheFound,
    CacheLookup,
    CheckpointVerdict,
    EventReport,
    ExclusionSet,
    Finish,
    Finished,
    Heartbeat,
    HeartbeatAnswer,
    Numerics,
    PoolReport,
    RefreshState,
    Release,
    ScheduleRow,
    SegmentCommit,
    SegmentCommitted,
)
from superbatch_server.schemas.base import Body
from superbatch_server.schemas.errors import LeaseLost

LOOKUP_KEYS = 5_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0

Answer = TypeVar("Answer", bound=Body)
log = logging.getLogger(__name__)


class AttemptClient:
    """One attempt's access to the service; safe for several threads."""

    def __init__(
        self,
        base_url: str,
        *,
        job: str,
        token: int,
        secret: str,
        patience_s: float = 30.0,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        """`patience_s`: how long a call is repeated while the service does not answer; set it to one lease."""
        self.patience_s = patience_s
        self._pause = pause
        # Joined here: httpx would end a base_url with a slash, which names no route.
        self._attempt_url = f"{base_url.rstrip('/')}/internal/v1/jobs/{job}/attempts/{token}"
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {secret}"},
            timeout=timeout_s,
            transport=transport,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._http.close()

    def bundle(self) -> AttemptBundle:
        """Return everything that a driver starts from."""
        return self._ask("GET", "", answer=AttemptBundle)

    def heartbeat(self, beat: Heartbeat, *, timeout_s: float) -> HeartbeatAnswer:
        """Renew the lease; tried once."""
        response = self._send("POST", "/heartbeat", beat, timeout_s)
        if isinstance(response, str):
            raise ServiceUnreachable(_unreachable(response, "POST", "/heartbeat"))
        return HeartbeatAnswer.model_validate_json(response.content)

    def lookup(self, cache_keys: list[str]) -> list[CacheEntry]:
        """Return the committed cache entries among the keys."""
        found: list[CacheEntry] = []
        for start in range(0, len(cache_keys), LOOKUP_KEYS):
            body = CacheLookup(cache_keys=cache_keys[start : start + LOOKUP_KEYS])
            found += self._ask("POST", "/cache:lookup", body, answer=CacheFound).entries
        return found

    def commit_cache(self, entry: CacheEntry) -> CacheEntry:
        """Commit a cache entry and return the one that won."""
        return self._ask("POST", "/cache", entry, answer=CacheEntry)

    def report_pool(self, report: PoolReport) -> None:
        """Record the complete pool."""
        self._tell("PUT", "/pool", report)

    def record_numerics(self, numerics: Numerics) -> Numerics:
        """Record the numerics profile, or agree with it."""
        return self._ask("PUT", "/numerics", numerics, answer=Numerics)

    def refresh(self) -> RefreshState:
        """Return credit and checkpoints."""
        return self._ask("GET", "/refresh", answer=RefreshState)

    def exclusions(self, digest: str) -> ExclusionSet:
        """Return the rows that a schedule row leaves out."""
        return self._ask("GET", f"/exclusions/{digest}", answer=ExclusionSet)

    def verdict(self, checkpoint_id: str, verdict: CheckpointVerdict) -> None:
        """Say whether a checkpoint may score."""
        self._tell("POST", f"/checkpoints/{checkpoint_id}:verdict", verdict)

    def record_schedule(self, row: ScheduleRow) -> ScheduleRow:
        """Record a schedule row and return what is recorded."""
        return self._ask("POST", "/schedule", row, answer=ScheduleRow)

    def commit_segment(self, commit: SegmentCommit) -> SegmentCommitted:
        """Publish a segment."""
        return self._ask("POST", "/segments", commit, answer=SegmentCommitted)

    def event(self, report: EventReport) -> None:
        """Add a line to the job's history."""
        self._tell("POST", "/events", report)

    def release(self, release: Release) -> None:
        """Put the job back into the queue until what it waits for moves."""
        self._tell("POST", "/release", release)

    def finish(self, finish: Finish) -> Finished:
        """End the job."""
        return self._ask("POST", "/finish", finish, answer=Finished)

    def _ask(self, method: str, path: str, body: Body | None = None, *, answer: type[Answer]) -> Answer:
        return answer.model_validate_json(self._repeated(method, path, body).content)

    def _tell(self, method: str, path: str, body: Body) -> None:
        self._repeated(method, path, body)

    def _repeated(self, method: str, path: str, body: Body | None) -> httpx.Response:
        """Send until there is an answer. Every call may be repeated: the service answers it the same way twice."""
        give_up, pause_s = monotonic() + self.patience_s, _FIRST_PAUSE_S
        while isinstance(response := self._send(method, path, body), str):
            if monotonic() + pause_s > give_up:
                raise ServiceUnreachable(_unreachable(response, method, path))
            log.info("%s %s: %s; repeated in %.1f s", method, path or "attempt", response, pause_s)
            self._pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return response

    def _send(self, method: str, path: str, body: Body | None, timeout_s: float | None = None) -> httpx.Response | str:
        """Return the answer, or in a few words why there is none.

        Raises: LeaseLost, or ServiceError for any other refusal.
        """
        content = None if body is None else body.model_dump_json().encode()
        timeout = self._http.timeout if timeout_s is None else httpx.Timeout(timeout_s)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            response = self._http.request(
                method, self._attempt_url + path, content=content, headers=headers, timeout=timeout
            )
        except httpx.TransportError as error:
            return str(error) or type(error).__name__
        if response.status_code >= 500 or response.status_code == 429:
            return f"answer {response.status_code}"
        if response.is_success:
            return response
        code, detail = _problem(response)
        if code == LeaseLost.code:
            raise LeaseLost(detail)
        raise ServiceError(response.status_code, code, detail)


def _problem(response: httpx.Response) -> tuple[str, str]:
    try:
        body = response.json()
        return str(body["code"]), str(body.get("detail", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "unknown", response.text[:500]


def _unreachable(reason: str, method: str, path: str) -> str:
    return (
        f"the service must answer its drivers; got {reason} for {method} {path or 'the attempt'}. "
        "The job goes on when it is claimed again; see whether the service runs."
    )
