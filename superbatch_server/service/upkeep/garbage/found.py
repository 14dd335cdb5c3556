"""What a run has found: counted by kind, with a few names to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from superbatch_server.schemas.garbage import GarbageCount, GarbageKind, GarbageReport

EXAMPLES = 3


@dataclass(frozen=True)
class Garbage:
    """One file or folder that nothing refers to; `changed_s` by the clock of where it lies."""

    kind: GarbageKind
    name: str
    size_bytes: int
    changed_s: float


class Tally:
    """The counts of a run."""

    def __init__(self, *, older_than_s: float, removed: Sequence[GarbageCount] = ()) -> None:
        """Begin a count.

        Args:
            older_than_s: what changed after this moment is young and stays.
            removed: what an earlier worker of the same run has removed.
        """
        self._older_than_s = older_than_s
        self._counts = {count.kind: count for count in removed}
        self._young_files = self._young_bytes = self._looked_at = self._unknown_files = 0
        self._unknown: list[str] = []

    def old_enough(self, found: list[Garbage]) -> list[Garbage]:
        """Return what may go, and count what is too young."""
        young = [each for each in found if each.changed_s > self._older_than_s]
        self._young_files += len(young)
        self._young_bytes += sum(each.size_bytes for each in young)
        return [each for each in found if each.changed_s <= self._older_than_s]

    def count(self, found: list[Garbage]) -> None:
        """Count what goes."""
        for each in found:
            before = self._counts.get(each.kind, GarbageCount(kind=each.kind))
            self._counts[each.kind] = GarbageCount(
                kind=each.kind,
                files=before.files + 1,
                bytes=before.bytes + each.size_bytes,
                examples=[*before.examples, each.name] if before.files < EXAMPLES else before.examples,
            )

    def look_at(self, number: int) -> None:
        """Count files that were looked at."""
        self._looked_at += number

    def leave(self, names: list[str]) -> None:
        """Count names that the service did not give."""
        self._unknown_files += len(names)
        self._unknown += names[: EXAMPLES - len(self._unknown)]

    def report(self) -> GarbageReport:
        """Return the counts so far."""
        found = [self._counts[kind] for kind in GarbageKind if kind in self._counts]
        return GarbageReport(
            found=found,
            files=sum(count.files for count in found),
            bytes=sum(count.bytes for count in found),
            looked_at=self._looked_at,
            young_files=self._young_files,
            young_bytes=self._young_bytes,
            unknown_files=self._unknown_files,
            unknown_examples=self._unknown,
        )
