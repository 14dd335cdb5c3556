"""A log together with what was trained of it: the order is checked, the state is that of the trained batches."""

from __future__ import annotations

from collections.abc import Mapping

from superbatch.formats.errors import InvalidInput
from superbatch.log import BatchLog, LogState
from superbatch.torch.rows import BatchSlice
from superbatch.torch.share import Share
from superbatch.torch.window import BatchWindow


class TrainedLog:
    """Follows the training of one rank through a log; the loader may be any number of batches ahead.

    Args:
        log: a log that has handed out nothing yet.
        share: rank, world size and accumulation.
        reports: tell the service what is trained; for the rank that registered.
    """

    def __init__(self, log: BatchLog, *, share: Share, reports: bool) -> None:
        self.log = log
        self.share = share
        self.window = BatchWindow(log)
        self.trained_seq = self._durable_seq = log.state()["next_seq"]
        self.num_trained = 0
        """Whole batches trained here, without those that were skipped."""
        self._reports = reports
        self._next_micro = 0

    def begin_again(self) -> None:
        """Begin at the first micro-step of the first untrained batch, of which a part may have been trained."""
        self._next_micro = 0

    def trained(self, found: BatchSlice) -> None:
        """Note that this rank trained a micro-step; after the last one of a batch, report the batch.

        Raises:
            InvalidInput: not the next micro-step of the log: the framework left some out or changed their order.
            ServiceError, HistoryChanged, ServiceUnreachable: the report was refused or could not be delivered.
        """
        batch = self.window.first()
        wanted = None if batch is None else (batch.seq, self._next_micro)
        if batch is None or (found.seq, found.micro) != wanted:
            raise InvalidInput(
                f"batches are trained in the order of the log; got batch {found.seq}, micro-step {found.micro} where "
                f"{'no batch is left' if wanted is None else f'batch {wanted[0]}, micro-step {wanted[1]} is next'}. "
                "The framework skipped or repeated batches: with HF Trainer set ignore_data_skip=True; elsewhere call "
                "trained() once for each batch, and do not skip any when you resume."
            )
        self._next_micro = (found.micro + 1) % self.share.accumulation
        if self._next_micro == 0:
            self.num_trained += 1
            self._pass(batch.seq)
            self._report()

    def skip_first(self, reason: str) -> None:
        """Step over the first untrained batch; all ranks do the same, and the one that reports tells the service."""
        batch = self.window.first()
        assert batch is not None
        assert self._next_micro == 0
        self.log.skip_batch(batch.seq, reason)
        self._pass(batch.seq)

    def saved(self, state: Mapping[str, object]) -> None:
        """Report that the batches before a state are saved in a trainer checkpoint: the service may forget them.

        Raises:
            InvalidInput: a state beyond what is trained.
        """
        seq = state["next_seq"]
        if not isinstance(seq, int) or seq > self.trained_seq:
            raise InvalidInput(
                f"only trained batches can be saved; got next_seq {seq!r} where {self.trained_seq} are trained. "
                "Pass what state_dict() returned."
            )
        self._durable_seq = max(self._durable_seq, seq)
        self._report()

    def state(self) -> LogState:
        """Return the state that resumes after the last trained batch; the same on all ranks."""
        return self.log.state_at(self.trained_seq)

    def _pass(self, seq: int) -> None:
        self.window.drop_first()
        self.trained_seq = seq + 1

    def _report(self) -> None:
        if self._reports:
            self.log.progress(trained_seq=self.trained_seq, durable_seq=self._durable_seq)
