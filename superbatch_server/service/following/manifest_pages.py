"""Manifests for many pollers: what several ask for at the same time is read once, and a page is made once per change.

A hundred trainers that poll one job are rung together and ask for the same page; each second they look together.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Engine

from superbatch_server.service.catalog.engine import read, wakeups_of
from superbatch_server.service.catalog.manifest import Page, log_version, manifest_page

READERS = 4
"""Threads; polls that wait hold none of them."""

KEPT_PAGES = 64
"""At most 64 KiB each."""

Place = tuple[str, str | None, int]
"""Job, history that the poller knows, and the batch after which it asks."""

Version = tuple[object, ...]
Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class _Look:
    """A reading of a manifest that runs or ran: which rings and which moment came before it."""

    rings: int
    at_s: float
    page: Future[Page]


class ManifestPages:
    """Reads manifests in threads of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wakeups = wakeups_of(engine)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="manifest")
        self._lock = threading.Lock()
        self._looks: OrderedDict[Place, _Look] = OrderedDict()
        self._made: OrderedDict[tuple[Place, Version], Page] = OrderedDict()

    async def page(self, place: Place, *, max_age_s: float = 0.0) -> Page:
        """Return the page at a place, as it is now or, unless the job was rung since, was at most `max_age_s` ago.

        Raises what `manifest_page` does.
        """
        with self._lock:
            look = self._looks.get(place)
            if look is None or not self._is_new_enough(look, place, max_age_s):
                rings, now_s = self._wakeups.seen(place[0]), time.monotonic()
                look = _Look(rings, now_s, self._threads.submit(self._read, place))
                _keep(self._looks, place, look)
        # A poller that goes away takes nobody's reading with it.
        return await asyncio.shield(asyncio.wrap_future(look.page))

    def _is_new_enough(self, look: _Look, place: Place, max_age_s: float) -> bool:
        if look.rings != self._wakeups.seen(place[0]):
            return False
        return not look.page.done() or time.monotonic() - look.at_s < max_age_s

    def _read(self, place: Place) -> Page:
        job_id, history, after = place
        with read(self._engine) as connection:
            key = (place, log_version(connection, job_id))
            with self._lock:
                made = self._made.get(key)
            page = made or manifest_page(connection, job_id, history=history, after=after)
        with self._lock:
            _keep(self._made, key, page)
        return page


def _keep(kept: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > KEPT_PAGES:
        kept.popitem(last=False)
