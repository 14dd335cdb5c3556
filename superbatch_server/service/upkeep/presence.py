"""A supervisor's heartbeat: a thread that keeps its row in the catalog fresh, and removes it at the end."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.supervisors import HEARTBEAT_S, Identity, beat, forget

log = logging.getLogger("superbatch.supervisor")

_GOODBYE_S = 2.0


@contextlib.contextmanager
def present(engine: Engine, who: Identity, *, num_running: Callable[[], int]) -> Iterator[None]:
    """Say every `HEARTBEAT_S` that a supervisor is there, however long its own rounds take."""
    stop = threading.Event()

    def keep_beating() -> None:
        while not stop.is_set():
            try:
                with write(engine) as connection:
                    beat(connection, who, num_running=num_running())
            except SQLAlchemyError as error:
                log.warning("the heartbeat of %s could not be noted: %s", who.id, error)
            stop.wait(HEARTBEAT_S)

    thread = threading.Thread(target=keep_beating, name="presence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_GOODBYE_S)
        # A catalog that is away learns by silence.
        with contextlib.suppress(SQLAlchemyError), write(engine) as connection:
            forget(connection, who.id)
