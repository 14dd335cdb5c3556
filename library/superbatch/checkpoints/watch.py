"""A trainer that knows nothing of us writes checkpoints into a folder; each complete one is pushed, once, in order.

A file is complete when its marker is there (`epoch_3.pt.done`), or without markers when neither its size nor its time
has changed for a while, measured by a clock that only goes forward: the time of day decides nothing. How many batches
are in its weights (`trained_seq`) comes from a sidecar (`epoch_3.pt.json`: {"trained_seq": 1200}), or from the number
in its name times the batches per epoch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from superbatch.checkpoints.ledger import FileStamp, Ledger
from superbatch.formats.errors import InvalidInput, ServiceError, ServiceUnreachable, SuperbatchError
from superbatch.formats.json_fields import as_fields

PATTERNS = ("*.pt", "*.pth", "*.safetensors")
MARKER, SIDECAR = ".done", ".json"

_NUMBER = re.compile(r"(\d+)$")
_FATAL_STATUS = frozenset({401, 403, 404})
_PASSING_STATUS = frozenset({409, 413, 507})
"""A conflict with another trainer, no room for the upload, a full disk: the same file may be welcome later."""

RETRY_S = 60.0
"""Seconds after a fault that may pass before the file is tried again."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a folder is read.

    patterns: names of checkpoints. batches_per_epoch: what the number in a name is multiplied by; 1 where it counts
    batches already, None where every file has a sidecar. needs_marker: wait for the marker. settle_s: without it, how
    long a file must not have changed.
    """

    patterns: Sequence[str] = PATTERNS
    batches_per_epoch: int | None = None
    needs_marker: bool = False
    settle_s: float = 10.0


class CheckpointWatch:
    """Looks at a folder, round by round.

    Args:
        folder: where the trainer writes.
        rules: which of its files are checkpoints, and when they are complete.
        push: converts and pushes one file at a trained_seq and says what came of it; raises what is wrong with it.
        ledger: what was done before.
        report: takes one line for people.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        folder: Path,
        rules: Rules,
        *,
        push: Callable[[Path, int], str],
        ledger: Ledger,
        report: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._folder, self._rules = folder, rules
        self._push, self._ledger, self._report, self._clock = push, ledger, report, clock
        self._unchanged_since: dict[FileStamp, float] = {}
        self._not_before_s: dict[FileStamp, float] = {}
        self.num_refused = 0

    def look(self) -> int:
        """Push what is complete and new, fewest batches first; return the number of files still awaited.

        A file that is refused is reported and not tried again until it or its sidecar changes. What is no fault of the
        file is tried again: a service that does not answer in the next round, with the rest; a disk that fails or is
        full, a conflict, no room for the upload after RETRY_S.

        Raises:
            ServiceError: 401, 403, 404: no file could ever be pushed like this.
        """
        ready, num_awaited = self._complete()
        for trained_seq, stamp in sorted(ready, key=lambda each: (each[0], each[1].name)):
            if self._clock() < self._not_before_s.get(stamp, 0.0):
                num_awaited += 1
                continue
            try:
                outcome = self._push(self._folder / stamp.name, trained_seq)
            except ServiceUnreachable as error:
                self._report(f"{stamp.name}: not pushed yet: {error}")
                return num_awaited + 1
            except (SuperbatchError, OSError) as error:
                if isinstance(error, ServiceError) and error.status in _FATAL_STATUS:
                    raise
                if isinstance(error, OSError) or (isinstance(error, ServiceError) and error.status in _PASSING_STATUS):
                    self._not_before_s[stamp] = self._clock() + RETRY_S
                    self._report(f"{stamp.name}: not pushed yet, next try in {RETRY_S:.0f} s: {error}")
                    num_awaited += 1
                else:
                    self._refuse(stamp, error)
            else:
                self._ledger.add(stamp, outcome)
                self._report(f"{stamp.name}: {outcome}")
        return num_awaited

    def _complete(self) -> tuple[list[tuple[int, FileStamp]], int]:
        """Return the complete new files with their trained_seq, and how many are not complete yet."""
        ready: list[tuple[int, FileStamp]] = []
        present = [stamp for stamp in self._stamps() if not self._ledger.is_done(stamp)]
        now_s = self._clock()
        self._unchanged_since = {stamp: self._unchanged_since.get(stamp, now_s) for stamp in present}
        num_awaited = 0
        for stamp in present:
            try:
                trained_seq = self._trained_seq(stamp.name)
            except (SuperbatchError, OSError) as error:
                self._refuse(stamp, error)
                continue
            if trained_seq is None or not self._is_complete(stamp, now_s):
                num_awaited += 1
            else:
                ready.append((trained_seq, stamp))
        return ready, num_awaited

    def _stamps(self) -> list[FileStamp]:
        names = {path.name for pattern in self._rules.patterns for path in self._folder.glob(pattern)}
        found = []
        for name in sorted(names):
            try:
                found.append(FileStamp.of(self._folder / name, sidecar=self._folder / f"{name}{SIDECAR}"))
            except OSError:  # renamed or removed since it was listed
                continue
        return found

    def _is_complete(self, stamp: FileStamp, now_s: float) -> bool:
        if self._rules.needs_marker:
            return (self._folder / f"{stamp.name}{MARKER}").exists()
        return stamp.size_bytes > 0 and now_s - self._unchanged_since[stamp] >= self._rules.settle_s

    def _trained_seq(self, name: str) -> int | None:
        """Return the batches in a file's weights, None while only a sidecar can tell and there is none yet.

        Raises:
            CorruptFile: a sidecar that does not say it.
            InvalidInput: a name without a number.
        """
        sidecar = self._folder / f"{name}{SIDECAR}"
        if sidecar.exists():
            return as_fields(sidecar.read_bytes(), where=sidecar.name).integer("trained_seq")
        if self._rules.batches_per_epoch is None:
            return None
        number = _NUMBER.search(name.rpartition(".")[0])
        if number is None:
            raise InvalidInput(
                f"a checkpoint's name must end with a number, or have a sidecar; got {name!r}. "
                f'Write {name}{SIDECAR} with {{"trained_seq": N}}, or leave the file out with --pattern.'
            )
        return int(number[1]) * self._rules.batches_per_epoch

    def _refuse(self, stamp: FileStamp, error: Exception) -> None:
        code = error.code if isinstance(error, SuperbatchError) else "unreadable"
        if isinstance(error, ServiceError):
            code = error.problem_code
        self.num_refused += 1
        self._ledger.add(stamp, f"refused {code}")
        self._report(f"{stamp.name}: REFUSED [{code}] {error}")
