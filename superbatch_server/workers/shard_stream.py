"""A shard read once, from its first byte to its last, while its identity is checked."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO, cast

from superbatch.formats.digests import weak_shard_fingerprint
from superbatch.formats.errors import ShardChanged
from superbatch_server.storage.roots import Root

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_READ_BYTES = 1 << 20


class _HashedStream(io.RawIOBase):
    """Forward-only, so that every byte passes through the digest."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self.digest = sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        part = self._stream.read(len(view))
        view[: len(part)] = part
        self.digest.update(part)
        return len(part)


@contextmanager
def checked_shard(root: Root, key: str, *, fingerprint: str, sha256_hex: str | None, where: str) -> Iterator[BinaryIO]:
    """Open a shard for one pass; on leaving without an error, raise ShardChanged if it was not the registered one.

    A shard registered with its sha256 is hashed to its end, any other one compared by etag, or size and time of change,
    before and after the pass.
    """
    _check_weak(root, key, fingerprint=fingerprint, sha256_hex=sha256_hex, where=where)
    with root.open(key) as opened:
        hashed = _HashedStream(opened)
        buffered = io.BufferedReader(hashed, buffer_size=_READ_BYTES)
        try:
            yield cast("BinaryIO", buffered)
        finally:
            if sha256_hex is not None:
                while buffered.read(_READ_BYTES):
                    pass
                _check_strong(hashed.digest.hexdigest(), sha256_hex, where=where)
    _check_weak(root, key, fingerprint=fingerprint, sha256_hex=sha256_hex, where=where)


def _check_weak(root: Root, key: str, *, fingerprint: str, sha256_hex: str | None, where: str) -> None:
    if sha256_hex is not None:
        return
    stat = root.stat(key)
    found = weak_shard_fingerprint(root.name, key, etag=stat.etag, size=stat.size, mtime_ns=stat.mtime_ns or 0)
    if found.hex() != fingerprint:
        raise _changed(f"etag {stat.etag}, {stat.size} bytes, changed at {stat.mtime_ns} ns", where)


def _check_strong(found: str, registered: str, *, where: str) -> None:
    if found != registered:
        raise _changed(f"sha256 {found} instead of {registered}", where)


def _changed(got: str, where: str) -> ShardChanged:
    return ShardChanged(
        f"a shard must stay what it was when it was registered; got {got} ({where}). "
        "Put the old file back, or register the changed one as a new data set."
    )
