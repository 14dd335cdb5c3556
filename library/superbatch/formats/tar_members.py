"""Walks the members of a tar as a stream: where each one lies, and how long it is.

Headers are parsed by the standard library (tarfile.TarInfo.frombuf); positions are counted here. tarfile's own stream
mode is not used: it walks a forged length of 2^60 in a loop, holds a GNU long name of any length in memory, and takes
a file that was cut off between two members for a whole one.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from superbatch.formats.errors import CorruptFile, NotATar
from superbatch.formats.tar_stream import READ_BYTES, TarStream

BLOCK_BYTES = 512
MAX_EXTENSION_BYTES = 1 << 20
"""Longest pax or GNU long-name record that is read; real ones are below 10 KiB."""

_MAX_LENGTH = 1 << 62
_REGULAR = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_WITHOUT_CONTENT = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
)
_PAX = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})
_OTHER_FORMATS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar.

    header_offset: first byte of its first header; extension headers that belong to it count.
    offset, length: its content, in bytes from the start of the stream. stop: end of the padding after it.
    is_regular: a plain file; False for directories, links, devices, FIFOs, sparse and unknown members.
    """

    name: str
    is_regular: bool
    header_offset: int
    offset: int
    length: int
    stop: int


def iter_members(stream: TarStream) -> Iterator[Member]:
    """Yield the members of a tar in order.

    GNU long names and pax headers (path, size, sparse marks) are applied to the member they belong to. The content of
    a member may be read from `stream` before the next one is asked for; what was not read is stepped over.

    Args:
        stream: a fresh TarStream at the first header.
    Raises:
        NotATar: the stream is empty or does not begin with a tar header.
        CorruptFile: a damaged header, a file that ends inside a member or without its end marker, data after the end
            marker (two tars in one file), an extension header beyond MAX_EXTENSION_BYTES.
    """
    shared_pax: dict[str, str] = {}
    own_pax: dict[str, str] = {}
    long_name: str | None = None
    first_offset: int | None = None
    while (block := _next_header(stream, expected=first_offset is not None)) is not None:
        header_offset = stream.position - BLOCK_BYTES
        info = _parsed(block, stream, header_offset)
        first_offset = header_offset if first_offset is None else first_offset
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            content = _extension(stream, info)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = _text(content.partition(b"\0")[0])
            continue
        if info.type in _PAX:
            own_pax.update(_pax_records(_extension(stream, info), stream, header_offset))
            continue
        if info.type == tarfile.XGLTYPE:
            shared_pax.update(_pax_records(_extension(stream, info), stream, header_offset))
            first_offset = None  # a global header belongs to no member
            continue
        if info.type == tarfile.GNUTYPE_SPARSE:
            _skip_sparse_maps(stream, block)
        member = _member(info, {**shared_pax, **own_pax}, long_name, first_offset, stream)
        yield member
        stream.skip_to(member.stop, what=f"member {member.name!r}")
        own_pax, long_name, first_offset = {}, None, None


def _next_header(stream: TarStream, *, expected: bool) -> bytes | None:
    """Return the next header block, or None at the end marker; `expected` = an extension header came just before."""
    at = stream.position
    block = stream.read_some(BLOCK_BYTES)
    if len(block) < BLOCK_BYTES and at == 0:
        raise NotATar(f"a shard must be a tar; got {len(block)} bytes in all ({stream.where}). Check the key.")
    if not block:
        raise CorruptFile(
            "a tar must end with its end marker, two blocks of zeros; "
            f"the file ends at {at} without one ({stream.where}). "
            "It was probably cut off: copy it again, or append 1,024 zero bytes if it is known to be whole."
        )
    if len(block) < BLOCK_BYTES:
        raise stream.cut_off("a header", start=at, stop=at + BLOCK_BYTES)
    if any(block):
        return block
    if expected:
        raise CorruptFile(
            f"an extension header must be followed by its member; got the end marker at {at} ({stream.where})."
        )
    _check_tail(stream)
    return None


def _check_tail(stream: TarStream) -> None:
    while tail := stream.read_some(READ_BYTES):
        if tail.count(0) != len(tail):
            raise CorruptFile(
                f"nothing may follow the end marker of a tar; got data before byte {stream.position} ({stream.where}). "
                "Two tars were probably joined by cat: write one tar."
            )


def _parsed(block: bytes, stream: TarStream, offset: int) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except (tarfile.HeaderError, ValueError) as error:
        if offset == 0:
            kind = next((name for magic, name in _OTHER_FORMATS.items() if block.startswith(magic)), None)
            got = f"{kind} data, which cannot be read by byte range" if kind else f"bytes {block[:8].hex(' ')}"
            raise NotATar(f"a shard must be an uncompressed tar; got {got} ({stream.where}). Check the key.") from error
        raise CorruptFile(
            f"a tar header is damaged; {error} (offset {offset}, {stream.where}). Copy the shard again."
        ) from error
    if not 0 <= info.size < _MAX_LENGTH:
        raise CorruptFile(f"a member's length must be below 2^62; got {info.size} (offset {offset}, {stream.where}).")
    return info


def _extension(stream: TarStream, info: tarfile.TarInfo) -> bytes:
    if info.size > MAX_EXTENSION_BYTES:
        raise CorruptFile(
            f"an extension header may hold {MAX_EXTENSION_BYTES} bytes; got {info.size} "
            f"(before offset {stream.position}, {stream.where}). Write the shard with shorter names."
        )
    return stream.read(_padded(info.size), what="an extension header")[: info.size]


def _pax_records(content: bytes, stream: TarStream, offset: int) -> dict[str, str]:
    """Return the records "<length> <key>=<value>\\n" that decide where a member lies: path, size and sparse marks."""
    records = {}
    at = 0
    while at < len(content) and content[at]:
        digits = content[at : at + 10].partition(b" ")[0]
        stop = at + int(digits) if digits.isdigit() else 0
        key, equals, value = content[at + len(digits) + 1 : stop - 1].partition(b"=")
        if not at < stop <= len(content) or not equals or content[stop - 1 : stop] != b"\n":
            raise CorruptFile(
                f"a pax header is damaged at its byte {at} (offset {offset}, {stream.where}). Copy the shard again."
            )
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
            records[_text(key)] = _text(value)
        at = stop
    return records


def _skip_sparse_maps(stream: TarStream, block: bytes) -> None:
    more_at = 482
    while block[more_at]:
        block = stream.read(BLOCK_BYTES, what="the map of a sparse member")
        more_at = 504


def _member(
    info: tarfile.TarInfo, pax: Mapping[str, str], long_name: str | None, header_offset: int, stream: TarStream
) -> Member:
    size_text = pax.get("size", str(info.size))
    size = int(size_text) if size_text.isdecimal() and len(size_text) <= 19 else _MAX_LENGTH
    if size >= _MAX_LENGTH:
        raise CorruptFile(
            f"a member's length must be below 2^62; got {size_text[:30]} (offset {header_offset}, {stream.where})."
        )
    length = 0 if info.type in _WITHOUT_CONTENT else size
    return Member(
        name=pax.get("path") or long_name or info.name,
        is_regular=info.type in _REGULAR and not any(name.startswith("GNU.sparse.") for name in pax),
        header_offset=header_offset,
        offset=stream.position,
        length=length,
        stop=stream.position + _padded(length),
    )


def _padded(length: int) -> int:
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
