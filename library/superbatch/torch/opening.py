"""Opening a log for a loader: registered on rank 0, and with the same batches stepped over on all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from superbatch.formats.manifest import Revoked
from superbatch.log import BatchLog
from superbatch.log.reports import Role
from superbatch.torch.agreement import Agreement
from superbatch.torch.share import Share
from superbatch.torch.trained_log import TrainedLog


class OpenLog(Protocol):
    """Opens a job's log at a state: `partial(BatchLog, url, job, token=token)`."""

    def __call__(
        self, *, state: Mapping[str, object] | None, read_ahead: int, skipped: Iterable[Revoked] | None = None
    ) -> BatchLog:
        """Return a log that has handed out nothing yet; `skipped` is given only where there are such batches."""
        ...


@dataclass(frozen=True, slots=True)
class Registration:
    """How a trainer registers; the fields are those of CuratedLoader. None as name: it does not."""

    name: str | None
    role: Role
    checkpoint_every: int | None
    ttl_s: float
    rewind: bool | None

    def open(
        self,
        open_log: OpenLog,
        *,
        share: Share,
        state: Mapping[str, object] | None,
        read_ahead: int,
        agreement: Agreement | None,
    ) -> TrainedLog:
        """Return the log at a state, registered on rank 0.

        Args:
            open_log: opens it.
            share: rank, world size and accumulation.
            state: where it begins; None for its start.
            read_ahead: batches asked for ahead of the one being trained.
            agreement: of ranks that step over what is withdrawn by now; None where a withdrawn batch is an error.
        """
        skipped = () if agreement is None else agreement.of_rank_0(lambda: _withdrawn(open_log, state))
        options = {"skipped": skipped} if skipped else {}
        log = open_log(state=state, read_ahead=read_ahead, **options)
        is_reporting = self.name is not None and share.rank == 0
        if self.name is not None and is_reporting:
            log.register(
                self.name,
                role=self.role,
                world_size=share.world_size,
                accumulation=share.accumulation,
                checkpoint_every=self.checkpoint_every,
                ttl_s=self.ttl_s,
                rewind=self._goes_back(state),
            )
        return TrainedLog(log, share=share, reports=is_reporting)

    def _goes_back(self, state: Mapping[str, object] | None) -> bool:
        if self.rewind is None:
            return state is not None or self.role == "reader"  # a reader's going back undoes nothing
        return self.rewind


def _withdrawn(open_log: OpenLog, state: Mapping[str, object] | None) -> tuple[Revoked, ...]:
    with open_log(state=state, read_ahead=0) as log:
        return log.withdrawn()
