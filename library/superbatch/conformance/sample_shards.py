"""Tars with tiny pictures and captions, made without an image library: a pure function of the seed."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from superbatch.formats.shards import ShardEntry
from superbatch.formats.tar import iter_samples
from superbatch.formats.uid import uid_of_bytes

ROOT = "pool"
NUM_SHARDS = 5
_PICTURE_PX = 16


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One row of the data set: its uid, its shard, and its columns in a batch list."""

    uid: bytes
    shard_id: int
    columns: Mapping[str, int | str | bytes]


def tiny_png(seed: bytes) -> bytes:
    """Return a picture of 16 x 16 pixels whose colours are those of sha256(seed)."""
    colours = sha256(seed).digest()
    lines = b"".join(
        b"\0" + b"".join(bytes((colours[(x + y) % 32], colours[x % 32], colours[y % 32])) for x in range(_PICTURE_PX))
        for y in range(_PICTURE_PX)
    )
    header = struct.pack(">IIBBBBB", _PICTURE_PX, _PICTURE_PX, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, content) for kind, content in parts)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_shards(folder: Path, *, rows_per_shard: int, seed: int) -> tuple[tuple[ShardEntry, ...], list[SampleRow]]:
    """Write NUM_SHARDS tars below `folder` and return the shards and all their rows in order."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[ShardEntry] = []
    rows: list[SampleRow] = []
    for shard_id in range(NUM_SHARDS):
        start, key = shard_id * rows_per_shard, f"pool-{shard_id:03d}.tar"
        content = _tar(range(start, start + rows_per_shard), seed)
        (folder / key).write_bytes(content)
        rows += _rows_of(content, shard_id=shard_id, start=start)
        fingerprint = sha256(content).hexdigest()
        shards.append(ShardEntry(shard_id, ROOT, key, "webdataset", rows_per_shard, start, "sample", fingerprint))
    return tuple(shards), rows


def _tar(indices: Sequence[int], seed: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index in indices:
            for suffix, content in (
                ("png", tiny_png(f"{seed}:{index}".encode())),
                ("txt", f"picture number {index} of the sample job {seed}\n".encode()),
            ):
                member = tarfile.TarInfo(f"{index:06d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _rows_of(tar: bytes, *, shard_id: int, start: int) -> Iterator[SampleRow]:
    for sample in iter_samples(io.BytesIO(tar), read=True):
        a, b = sample.members
        uid = uid_of_bytes(*(content or b"" for content in sample.data.values()))
        columns: dict[str, int | str | bytes] = {
            "uid": uid,
            "dataset_index": start + sample.sample_index,
            "shard_id": shard_id,
            "sample_index": sample.sample_index,
            "key": sample.key,
            "sample_offset": sample.sample_offset,
            "sample_length": sample.sample_length,
            "a_offset": a.offset,
            "a_length": a.length,
            "b_offset": b.offset,
            "b_length": b.length,
        }
        yield SampleRow(uid, shard_id, columns)
