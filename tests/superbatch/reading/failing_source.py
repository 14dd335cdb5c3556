"""A source that fails when told to, and counts what it was asked."""

from __future__ import annotations

from collections.abc import Sequence

from superbatch.reading.ranges import ByteRange
from superbatch.reading.sources import Answer, RangeSource


class FailingSource:
    """Another source, whose first reads fail; `is_remote` may be told apart from where the bytes lie."""

    def __init__(self, inner: RangeSource, *, failures: int = 0, is_remote: bool = False) -> None:
        self.inner, self.failures, self.is_remote = inner, failures, is_remote
        self.calls = self.ranges = 0

    def read_ranges(self, key: str, ranges: Sequence[ByteRange]) -> Answer:
        self.count()
        self.ranges += len(ranges)
        return self.inner.read_ranges(key, ranges)

    def read_tail(self, key: str, num_bytes: int) -> Answer:
        self.count()
        return self.inner.read_tail(key, num_bytes)

    def close(self) -> None:
        self.inner.close()

    def count(self) -> None:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise OSError("connection reset")
