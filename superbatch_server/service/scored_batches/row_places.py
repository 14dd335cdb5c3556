"""Where a row of a data set lies, and what its index says about it."""

from __future__ import annotations

from dataclasses import dataclass

CAPTION_CHARS = 2000
"""Kept of each caption."""


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """The shard that holds a row."""

    key: str
    source: str
    start_index: int
    rows: int
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class RowPlace:
    """One row: where it lies, and what the index says about it; without an index, only its source is known."""

    dataset_index: int
    shard: ShardPlace
    is_indexed: bool
    key: str = ""
    caption: str | None = None
    verdict: str = ""
    a_sha256: bytes = b""
    a_offset: int | None = None
    a_length: int | None = None
    b_offset: int | None = None
    b_length: int | None = None
