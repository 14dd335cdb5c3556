"""What a loader handed out and is not trained yet, and the error that waits behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from superbatch.torch.collate import Batch


class HandedOut:
    """The micro-steps of one iteration, each untrained until `trained` is called.

    A framework that takes the next micro-step before it trains the last one must not lose that one to an error which
    belongs after it. So the iteration ends where such a framework asks too early, and `trained` raises the error once
    all that was handed out is trained. Whoever trains each before asking for the next gets the error from the
    iteration, and so does everybody inside a batch, which cannot be trained any more.

    Args:
        ahead: micro-steps that the framework takes before it trains them.
        accumulation: micro-steps per batch.
    """

    def __init__(self, *, ahead: int, accumulation: int) -> None:
        self._ahead = ahead
        self._accumulation = accumulation
        self._num_handed_out = self._num_untrained = 0
        self._owed: Exception | None = None

    def pass_on(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, counted.

        Raises:
            Exception: what `batches` raises, unless `trained` will raise it.
        """
        try:
            for batch in batches:
                self._num_handed_out += 1
                self._num_untrained += 1
                yield batch
        except Exception as error:  # whatever it is, it is raised, here or later
            is_whole = self._num_handed_out % self._accumulation == 0
            if not is_whole or not 0 < self._num_untrained <= self._ahead:
                raise
            self._owed = error

    def trained(self) -> None:
        """Note that the next micro-step is trained.

        Raises:
            Exception: it was the last one before an error.
        """
        self._num_untrained -= 1
        if self._owed is not None and self._num_untrained <= 0:
            raise self._owed
