"""Even cuts of a count. No torch here."""

from __future__ import annotations


def chunk_sizes(count: int, num_chunks: int) -> list[int]:
    """Return num_chunks sizes that sum to count, as even as can be, the remainder spread over the chunks.

    10 in 4 chunks: 2, 3, 2, 3. The paper floors b/N and so chooses fewer than b where N does not divide it.
    """
    return [(r + 1) * count // num_chunks - r * count // num_chunks for r in range(num_chunks)]
