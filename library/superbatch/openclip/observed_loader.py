"""open_clip's loader, with others told of each step once it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from superbatch.conformance import Trace
from superbatch.openclip.plan import ReadingPlan
from superbatch.openclip.stages import UID_NAME, Epoch


class Observer(Protocol):
    """Is told, on its rank, of each loader batch that was trained."""

    def trained(self, seq: int, micro: int, uids: Sequence[str]) -> None:
        """Take note of micro-step `micro` of batch `seq`; uids in hexadecimal, none where none were noted."""
        ...


class ObservedLoader:
    """Stands in for open_clip's loader: hands out its batches, and tells the observers of each once it is trained."""

    def __init__(self, loader: Any, *, plan: ReadingPlan, epoch: Epoch, observers: Sequence[Observer]) -> None:
        self.num_batches: int = loader.num_batches
        self.num_samples: int = loader.num_samples
        self._loader, self._plan, self._epoch, self._observers = loader, plan, epoch, observers

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield pictures and tokens; the loop asks for the next batch when it has trained the one before."""
        epoch = self._epoch.get_value()
        for step, (pictures, tokens, *uids) in enumerate(self._loader):
            yield pictures, tokens
            seq, micro = self._plan.batch_of(epoch, step)
            for observer in self._observers:
                observer.trained(seq, micro, uids[0] if uids else ())


@dataclass(frozen=True)
class UidWebdataset:
    """Stands in for the module `webdataset` where open_clip builds its pipeline: its tuples carry the uid as well."""

    webdataset: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.webdataset, name)

    def to_tuple(self, *names: str) -> Any:
        """Return the stage that makes tuples, with one more element."""
        return self.webdataset.to_tuple(*names, UID_NAME)


@dataclass(frozen=True)
class TraceWriter:
    """Writes the lines of the conformance kit, from the rows that were trained."""

    trace: Trace
    accumulation: int

    def trained(self, seq: int, micro: int, uids: Sequence[str]) -> None:
        """Write one line; end the process after as many steps as the kit asked for."""
        self.trace.step(seq, map(bytes.fromhex, uids), micro=micro if self.accumulation > 1 else None)
        if self.trace.is_finished:
            raise SystemExit(0)
