"""Answers to requests that carried an Idempotency-Key, kept for 24 hours. A key belongs to the credential that sent it.

The answer is stored in the transaction that made the change: a repeated request finds both or neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, insert, select

from superbatch_server.schemas.errors import IdempotencyMismatch
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import read, transact
from superbatch_server.service.catalog.tables import idempotency

KEPT_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Answer:
    """What a client gets: the status, and the body as JSON text; `kept` is what a repeated request gets instead."""

    status: int
    body: str
    kept: str | None = None


@dataclass(frozen=True)
class KeyedRequest:
    """What makes two requests the same: the key, who sent it, and method, path and canonical body."""

    key: str | None
    text: str
    owner: str = ""

    @property
    def row_key(self) -> str:
        """Under which the answer is kept."""
        return hashlib.sha256(f"{self.owner}\0{self.key}".encode()).hexdigest()

    @property
    def text_sha256(self) -> str:
        """Which request the key stands for."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def answer_once(engine: Engine, make: Callable[[Connection], Answer], request: KeyedRequest) -> Answer:
    """Run `make` in one writing transaction and return its answer; with a key, at most once in 24 hours.

    Raises:
        IdempotencyMismatch: the key was used for another request.
    """
    if request.key is None:
        return transact(engine, make)
    return transact(engine, lambda connection: _answer_keyed(connection, make, request))


def answered_before(engine: Engine, request: KeyedRequest) -> Answer | None:
    """Return what the request was answered before, for those whose checks might fail by now.

    Raises:
        IdempotencyMismatch: the key was used for another request.
    """
    if request.key is None:
        return None
    with read(engine) as connection:
        return _kept_answer(connection, request, now_ms(connection))


def _answer_keyed(connection: Connection, make: Callable[[Connection], Answer], request: KeyedRequest) -> Answer:
    at_ms = now_ms(connection)
    # Except what another request is deleting: two that wait for each other would both fail.
    expired = select(idempotency.c.key).where(idempotency.c.expires_ms <= at_ms).with_for_update(skip_locked=True)
    connection.execute(delete(idempotency).where(idempotency.c.key.in_(expired)))
    known = _kept_answer(connection, request, at_ms)
    if known is not None:
        return known
    answer = make(connection)
    connection.execute(
        insert(idempotency).values(
            key=request.row_key,
            body_sha256=request.text_sha256,
            status=answer.status,
            answer=answer.body if answer.kept is None else answer.kept,
            expires_ms=at_ms + KEPT_MS,
            done=True,
        )
    )
    return answer


def _kept_answer(connection: Connection, request: KeyedRequest, at_ms: int) -> Answer | None:
    query = select(idempotency).where(idempotency.c.key == request.row_key, idempotency.c.expires_ms > at_ms)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    if row["body_sha256"] != request.text_sha256:
        raise IdempotencyMismatch(
            f"an Idempotency-Key stands for one request; got {request.key!r} with another body or address (header). "
            "Make a new key for a new request."
        )
    return Answer(row["status"], row["answer"])
