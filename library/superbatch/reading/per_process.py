"""Things that must not cross a fork or be pickled: connections, threads, open files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """One T per process, made at its first use there.

    A forked process makes its own and leaves the parent's alone, neither used nor closed. A pickled one arrives empty.

    Args:
        make: makes a T; must be picklable where the whole is pickled.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}

    def get(self) -> T:
        """Return the T of this process."""
        process = os.getpid()
        if process not in self._made:
            # Two threads may both make one here; setdefault lets the first win and drops the other unused.
            return self._made.setdefault(process, self._make())
        return self._made[process]

    def take(self) -> T | None:
        """Return the T of this process, if there is one, and forget it: the caller closes it."""
        return self._made.pop(os.getpid(), None)

    def __getstate__(self) -> Callable[[], T]:
        return self._make

    def __setstate__(self, make: Callable[[], T]) -> None:
        self._make, self._made = make, {}
