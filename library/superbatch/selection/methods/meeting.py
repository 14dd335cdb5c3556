"""How the processes of one selection exchange tensors, and how each hears that another cannot go on.

Every exchange begins with three numbers of each process: at which step it is, how much it brings, and a number that
must be the same in all. A process that fails says so there, whichever step the others are at, so that nobody waits for
it; and a process that is at another step than the others is found out instead of mixing up their numbers.

Letters: W words of 8 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection, PeerFailed

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor

_FAILED, _DONE = "failed", "done"
_STEPS = (_FAILED, _DONE, "report", "terms", "draw", "gather", "gather_all", "total")
_SAME_IN_ALL = {kind.code: kind for kind in (InvalidSelection, InvalidEmbeddings)}


class Meeting:
    """The processes of a group while they make one selection.

    A context manager. Law: either every process leaves it without an error, or every process raises; each sentence
    names the process that failed first. A process that dies raises nothing: the processes that were waiting for its
    numbers raise `PeerFailed` as soon as its connections close, the others when those exit too, or when the group's
    time-out is over, whichever is first.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self._backends = dist.get_backend_config(group)
        self._is_over = False
        self.rank = dist.get_rank(group)
        self.num_processes = dist.get_world_size(group)

    def __enter__(self) -> Meeting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.sizes(_DONE)
        elif isinstance(error, Exception) and not self._is_over:
            self._headers(_FAILED)
            common = self._common_error(error)
            if common is not error:
                raise common from error

    def sizes(self, step: str, size: int = 0, *, must_agree: int = 0) -> list[int]:
        """Return every process's `size`, having made sure that all are at the same step with the same number.

        Raises: what another process has failed by; PeerFailed where the steps differ.
        """
        headers = self._headers(step, size, must_agree)
        if any(_STEPS[header[0]] == _FAILED for header in headers):
            raise self._common_error(None)
        places = sorted({(_STEPS[header[0]], header[2]) for header in headers})
        if len(places) > 1:
            self._is_over = True
            raise PeerFailed(
                f"all processes must be at the same step; got {places} ({self._me()}). "
                "Use one version of superbatch and of torch in all of them."
            )
        return [header[1] for header in headers]

    def all_gather(self, values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Return every process's values, by rank: [sizes[r], ...] of process r. Each sends as many as the longest."""
        longest = max(sizes)
        if longest == 0:
            return [values] * len(sizes)
        padded = values.new_zeros((longest, *values.shape[1:]))
        padded[: len(values)] = values
        sent = self._on_the_wire(padded)
        received = list(sent.new_empty((len(sizes), *sent.shape)))
        self._call(lambda: dist.all_gather(received, sent, group=self._group))
        return [part[:size].to(values.device) for part, size in zip(received, sizes, strict=True)]

    def all_gather_text(self, step: str, text: str) -> list[str]:
        """Return every process's text, by rank."""
        written = np.frombuffer(text.encode(), np.uint8).copy()
        parts = self.all_gather(torch.from_numpy(written), self.sizes(step, len(written)))
        return [bytes(part.tolist()).decode() for part in parts]

    def sum_words(self, words: Int64[Tensor, "_ W"]) -> Int64[Tensor, "_ W"]:
        """Return the sum over all processes; may overwrite `words`."""
        sent = self._on_the_wire(words)
        self._call(lambda: dist.all_reduce(sent, group=self._group))
        return sent.to(words.device)

    def _headers(self, step: str, size: int = 0, must_agree: int = 0) -> list[list[int]]:
        header = torch.tensor([[_STEPS.index(step), size, must_agree]])
        return [part[0].tolist() for part in self.all_gather(header, [1] * self.num_processes)]

    def _common_error(self, own: Exception | None) -> Exception:
        """Return what this process raises; `own` is its own error where it is one of those that failed."""
        self._is_over = True
        report = "" if own is None else json.dumps([getattr(own, "code", ""), type(own).__name__, str(own)])
        reports = self.all_gather_text("report", report)
        if own is not None and all(other == report for other in reports):
            return own
        process = next(rank for rank, other in enumerate(reports) if other)
        code, name, message = json.loads(reports[process])
        if code in _SAME_IN_ALL:
            return _SAME_IN_ALL[code](f"{message} (process {process} of {self.num_processes})")
        if own is not None:
            return own
        return PeerFailed(
            f"every process must finish its part; got {name}: {message} (process {process} of {self.num_processes}). "
            "See its own traceback."
        )

    def _on_the_wire(self, values: Tensor) -> Tensor:
        return values.to(wire_device(self._backends, values.device))

    def _call(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:
            self._is_over = True
            raise PeerFailed(
                f"every process must stay until all are done; got {str(error).splitlines()[0]} ({self._me()}). "
                "See what the other processes printed, and start all of them again."
            ) from error

    def _me(self) -> str:
        return f"process {self.rank} of {self.num_processes}"


def wire_device(backends: str, device: torch.device) -> torch.device:
    """Return where a group can exchange tensors that lie on `device`: there, or on the device that it has.

    Args:
        backends: device type and backend, as torch says it: "cpu:gloo,cuda:nccl".
        device: where the tensors are.
    """
    served = [backend.split(":")[0] for backend in backends.split(",")]
    if device.type in served:
        return device
    return torch.device("cuda", torch.cuda.current_device()) if served[0] == "cuda" else torch.device(served[0])
