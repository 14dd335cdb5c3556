"""What a selection refuses, always before any work; and how it ends where another process fails.

SuperbatchError (superbatch.formats.errors)
├── InvalidInput
│   ├── InvalidSelection     parameters that are out of range or contradict each other
│   ├── InvalidEmbeddings    embeddings that are not finite, not of unit length, or of shapes that do not fit
│   └── TooFewCandidates     exclusions leave fewer than b
└── PeerFailed               another process of a sharded selection failed or went away
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from superbatch.formats.errors import InvalidInput, SuperbatchError


class InvalidSelection(InvalidInput):
    """A parameter of the selection is out of range, or two of them contradict each other."""

    code: ClassVar[str] = "invalid_selection"


class InvalidEmbeddings(InvalidInput):
    """An embedding is not finite or not of unit length, or shapes, types or devices do not fit together."""

    code: ClassVar[str] = "invalid_embeddings"


class TooFewCandidates(InvalidInput):
    """Fewer than b candidates may be chosen; `counts` says how many each rule excluded, first rule first."""

    code: ClassVar[str] = "too_few_candidates"

    def __init__(self, *, b: int, num_candidates: int, counts: Mapping[str, int]) -> None:
        self.b = b
        self.num_candidates = num_candidates
        self.counts = dict(counts)
        self.num_eligible = num_candidates - sum(counts.values())
        rules = ", ".join(f"{count} by {rule}" for rule, count in self.counts.items())
        excluded = f"excluded: {rules}" if rules else "no rule excluded any"
        super().__init__(
            f"a batch of b = {b} needs at least {b} candidates; got {self.num_eligible} of {num_candidates} "
            f"({excluded}). Raise f for a larger super-batch, lower b, or relax a rule."
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the keyword arguments when the error crosses a process boundary."""
        return (_rebuild, (self.b, self.num_candidates, self.counts))


class PeerFailed(SuperbatchError):
    """Another process of a sharded selection failed, went away or did not answer within the group's time-out."""

    code: ClassVar[str] = "peer_failed"


def _rebuild(b: int, num_candidates: int, counts: Mapping[str, int]) -> TooFewCandidates:
    return TooFewCandidates(b=b, num_candidates=num_candidates, counts=counts)
