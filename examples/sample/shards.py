"""Rows, their damage on purpose, and the tar files that hold them."""

import io
import struct
import tarfile
import zlib
from dataclasses import dataclass, replace

OVERSIZED_SIDE_PX = 5000
_MTIME_S = 0
_MODE = 0o644


@dataclass(frozen=True, eq=False)
class Row:
    """One pair before it has a key; `planted` is the kind of its damage, `original` the row that it was made from."""

    png: bytes
    caption: str
    concept: str
    set_name: str
    shuffled: bool = False
    planted: str = ""
    original: "Row | None" = None


@dataclass(frozen=True)
class Shard:
    """One tar file to be: its rows in order, all of one source. `number` counts all shards of the sample."""

    split: str
    source: str
    index: int
    number: int
    rows: list[Row]

    @property
    def path(self) -> str:
        """Return the file's name, e.g. pool-emoji-001.tar."""
        return f"{self.split}-{self.source}-{self.index:03d}.tar"

    def key(self, position: int) -> str:
        """Return the key of the row at a position; unique in the whole sample, and it tells nothing about the row."""
        return f"{self.number:02d}{position:04d}"


def oversized_png(side_px: int = OVERSIZED_SIDE_PX) -> bytes:
    """Return a white picture of side_px x side_px, one bit a pixel: 25 million pixels in a few kB."""
    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    line = b"\0" + b"\xff" * ((side_px + 7) // 8)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(line * side_px, 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def damaged(kind: str, row: Row, *, other_caption: str) -> Row:
    """Return an extra row made from `row`, damaged in the way that `kind` says."""
    extra = replace(row, planted=kind, original=row)
    match kind:
        case "truncated_picture":
            return replace(extra, png=row.png[: len(row.png) // 2])
        case "oversized_picture":
            return replace(extra, png=oversized_png())
        case "empty_caption":
            return replace(extra, caption="")
        case "picture_duplicate":
            return replace(extra, caption=other_caption)
        case "exact_duplicate":
            return extra
    raise ValueError(f"kind must be one of the five kinds of damage; got {kind} (recipe.PLANTED).")


def tar_bytes(shard: Shard) -> bytes:
    """Return the shard as a WebDataset tar, <key>.png before <key>.txt; the same rows, the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for position, row in enumerate(shard.rows):
            for suffix, content in (("png", row.png), ("txt", row.caption.encode())):
                member = tarfile.TarInfo(f"{shard.key(position)}.{suffix}")
                member.size, member.mtime, member.mode = len(content), _MTIME_S, _MODE
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
