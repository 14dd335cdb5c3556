"""Trying a read again, with growing pauses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from superbatch.formats.errors import InvalidInput

T = TypeVar("T")


@dataclass(frozen=True)
class Tries:
    """How often a read is tried, and how long the pauses are.

    num_attempts: tries in all, at least 1.
    first_delay_s: pause before the second try; each further pause is four times as long.
    sleep: called with a pause in seconds.
    """

    num_attempts: int
    first_delay_s: float
    sleep: Callable[[float], None]

    def __post_init__(self) -> None:
        if self.num_attempts < 1:
            raise InvalidInput(f"num_attempts must be at least 1; got {self.num_attempts}. Use 1 for no second try.")

    def call(self, action: Callable[[], T]) -> T:
        """Return what `action` returns.

        Raises:
            OSError: that of the last try.
        """
        delay_s = self.first_delay_s
        for _ in range(self.num_attempts - 1):
            try:
                return action()
            except OSError:
                self.sleep(delay_s)
                delay_s *= 4
        return action()
