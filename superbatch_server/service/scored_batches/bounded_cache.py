"""A cache of immutable things that keeps the ones used last, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Law: `get` returns what `load` would; entries together never weigh more than `max_bytes`.

    Two threads may load the same thing at once, which costs time and changes nothing. What is heavier than the whole
    cache is handed out and not kept.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._kept: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, load: Callable[[], Value], weigh: Callable[[Value], int]) -> Value:
        """Return the value under an immutable key."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value = load()
        num_bytes = weigh(value)
        if num_bytes <= self._max_bytes:
            with self._lock:
                self._keep(key, value, num_bytes)
        return value

    def _keep(self, key: str, value: Value, num_bytes: int) -> None:
        if key in self._kept:
            return
        self._kept[key] = (value, num_bytes)
        self._num_bytes += num_bytes
        while self._num_bytes > self._max_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self._num_bytes -= freed
