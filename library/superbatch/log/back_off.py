"""Pauses between tries: doubling up to a limit, the last half of each at random, so that many ranks spread out."""

from __future__ import annotations

import random
from collections.abc import Callable

NUM_ATTEMPTS = 12
"""Tries before a source counts as unreachable: one and a half to three minutes of pauses."""

_FIRST_DELAY_S = 0.25


class BackOff:
    """Sleeps longer the more tries have failed.

    Args:
        rng: source of the jitter; None for one of its own.
        sleep: called with a pause in seconds.
        longest_s: limit of a pause.
    """

    def __init__(self, *, rng: random.Random | None, sleep: Callable[[float], object], longest_s: float = 30.0) -> None:
        self._rng = random.Random() if rng is None else rng
        self._sleep = sleep
        self._longest_s = longest_s

    def pause(self, failures: int) -> None:
        """Sleep before the next try after `failures` >= 1 of them."""
        self._sleep(self.delay_s(failures))

    def delay_s(self, failures: int) -> float:
        """Return the pause after `failures` >= 1 tries, in seconds: between half of the doubled delay and all of it."""
        delay_s = min(self._longest_s, _FIRST_DELAY_S * 2.0 ** min(failures - 1, 30))
        return delay_s * self._rng.uniform(0.5, 1.0)
