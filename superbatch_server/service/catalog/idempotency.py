"""Answers to requests that carried an Idempotency-Key, kept for 24 hours.

The answer is stored in the transaction that made the change: a repeated request finds both or neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError

from superbatch_server.schemas.errors import IdempotencyMismatch
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.tables import idempotency

KEPT_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Answer:
    """What a client gets: the status, and the body as JSON text."""

    status: int
    body: str


def answer_once(engine: Engine, make: Callable[[Connection], Answer], *, key: str | None, request: str) -> Answer:
    """Run `make` in one writing transaction and return its answer; with a key, at most once in 24 hours.

    Args:
        key: the client's Idempotency-Key; None when it gave none.
        request: method, path and canonical body, which a repeated request must have in common.
    Raises:
        IdempotencyMismatch: the key was used for another request.
    """
    if key is None:
        with write(engine) as connection:
            return make(connection)
    try:
        return _answer_keyed(engine, make, key=key, request=request)
    except IntegrityError:
        # Where writers run side by side, the same key may have been answered a moment ago.
        return _answer_keyed(engine, make, key=key, request=request)


def _answer_keyed(engine: Engine, make: Callable[[Connection], Answer], *, key: str, request: str) -> Answer:
    body_sha256 = hashlib.sha256(request.encode()).hexdigest()
    with write(engine) as connection:
        at_ms = now_ms(connection)
        connection.execute(delete(idempotency).where(idempotency.c.expires_ms <= at_ms))
        row = connection.execute(select(idempotency).where(idempotency.c.key == key)).mappings().one_or_none()
        if row is None:
            answer = make(connection)
            connection.execute(
                insert(idempotency).values(
                    key=key,
                    body_sha256=body_sha256,
                    status=answer.status,
                    answer=answer.body,
                    expires_ms=at_ms + KEPT_MS,
                    done=True,
                )
            )
            return answer
    if row["body_sha256"] != body_sha256:
        raise IdempotencyMismatch(
            f"an Idempotency-Key stands for one request; got {key!r} with another body or address (header). "
            "Make a new key for a new request."
        )
    return Answer(row["status"], row["answer"])
