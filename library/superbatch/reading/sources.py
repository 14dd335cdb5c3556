"""What reads bytes: the protocol of a source of one named root, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from superbatch.reading.ranges import ByteRange


class Answer(NamedTuple):
    """What a source read.

    parts: the bytes of each range, in the order asked for.
    size_bytes: size of the whole object; None where the source does not say.
    version: a mark that differs once the object was replaced or written to; "" where there is none.
    """

    parts: list[bytes]
    size_bytes: int | None
    version: str


class RangeSource(Protocol):
    """Reads byte ranges of the objects below one root.

    The law: an answer has exactly the bytes asked for; whatever prevents that is an OSError (also: an object that is
    shorter than a range), which the caller may try again. Several threads and forked processes may use one source, and
    it can be pickled.
    """

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network: then several are under way at once, and farther ranges are joined."""
        ...

    def read_ranges(self, key: str, ranges: Sequence[ByteRange]) -> Answer:
        """Return the bytes of each range of the object `key`."""
        ...

    def read_tail(self, key: str, num_bytes: int) -> Answer:
        """Return, as one part, the last `num_bytes` > 0 of the object `key`, or all of a shorter one, and its size."""
        ...

    def close(self) -> None:
        """Give connections back; a later read opens them anew."""
        ...
