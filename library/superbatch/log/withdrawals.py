"""Which batches a log steps over, so that ranks which cannot talk to each other never train on different ones.

Every rank reads the same log, but at other moments: one may have handed out a batch before it was withdrawn, another
may ask for it afterwards. A rank that raises has handed out a beginning of the log, like all others, so raising never
mixes two batches; only stepping over can. So a log steps over what all ranks were told alike, and raises for the rest:

- `skipped`: what rank 0 found withdrawn and handed to all ranks before they opened their logs;
- batches that the trainer itself skips, by a call on every rank;
- whatever is withdrawn, on a single rank, which has nobody to differ from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from superbatch.formats.errors import InvalidInput, RevokedBatch
from superbatch.formats.manifest import Revoked

OnRevoked = Literal["raise", "skip"]


class Withdrawals:
    """Decides for each batch whether it is handed out, stepped over, or an error.

    The law: two logs with the same `skipped` and the same calls of `skip` hand out the same batches in the same order,
    whenever each of them learns what is withdrawn; one of them may stop earlier, by an error.

    Args:
        on_revoked: what becomes of a withdrawn batch.
        skipped: the batches to step over, withdrawn or not; None for none that the ranks agreed on.
        world_size: number of ranks; None where it is not known.
    Raises:
        InvalidInput: "skip" on several ranks that agreed on nothing.
    """

    def __init__(self, *, on_revoked: OnRevoked, skipped: Iterable[Revoked] | None, world_size: int | None) -> None:
        if on_revoked == "skip" and skipped is None and world_size != 1:
            ranks = "unknown" if world_size is None else world_size
            raise InvalidInput(
                f'on_revoked="skip" needs ranks that agree on what they step over; got world_size {ranks} and no '
                "skipped. Say world_size=1, or let rank 0 open a log, broadcast its withdrawn(), and open the log of "
                "every rank with that as skipped."
            )
        self._follows_all = on_revoked == "skip" and skipped is None
        self._agreed = tuple(skipped or ())
        self._own: dict[int, str] = {}

    def skip(self, seq: int, reason: str) -> None:
        """Step over a batch that the trainer cannot use."""
        self._own[seq] = reason

    def own_from(self, seq: int) -> list[tuple[int, str]]:
        """Return (seq, reason) of the batches that the trainer skipped itself, from `seq` on."""
        return sorted((each, reason) for each, reason in self._own.items() if each >= seq)

    def is_skipped(self, seq: int, revoked: Iterable[Revoked]) -> bool:
        """Claim that batch `seq` is stepped over; False hands it out.

        Args:
            seq: the next batch.
            revoked: what is withdrawn, as far as this rank knows by now.
        Raises:
            RevokedBatch: it is withdrawn, and other ranks may not know it.
        """
        if seq in self._own or _reason(seq, self._agreed) is not None:
            return True
        reason = _reason(seq, revoked)
        if reason is not None and not self._follows_all:
            raise RevokedBatch(seq, reason)
        return reason is not None


def _reason(seq: int, revoked: Iterable[Revoked]) -> str | None:
    return next((each.reason for each in revoked if 0 <= seq - each.first_seq < each.num_batches), None)
