"""Reads the samples of a WebDataset tar as a stream: keys, byte ranges and, when asked, contents.

Nothing is extracted, no link is followed, and no length in a header decides how much memory is taken.

A sample is a run of regular members with one key. The key is the path up to the first dot of its last part, the suffix
is the rest in lower case: "s/000.left.PNG" has the key "s/000" and the suffix "left.png".
- Names whose last part has no dot or begins with one, and WebDataset's own "__meta__" names, belong to no sample.
- Directories, links, devices, FIFOs and sparse members are stepped over; they neither join nor end a sample.
- A suffix that the sample already has begins a new sample, which then has the same key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from superbatch.formats.errors import CorruptFile
from superbatch.formats.tar_members import Member, iter_members
from superbatch.formats.tar_stream import TarStream

MAX_MEMBER_BYTES = 64 << 20
MAX_SAMPLE_MEMBERS = 256
"""A sample is held until it is complete; more members under one key mean that the tar is no WebDataset."""

_META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True, slots=True)
class TarMember:
    """One file of a sample: its suffix, and where its content lies, in bytes from the start of the shard."""

    suffix: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TarSample:
    """One sample of a shard.

    sample_index: position in the shard, from 0.
    sample_offset, sample_length: from the first header of its first member to the end of the last member's padding;
        these bytes alone, with an end marker, are a tar of this sample.
    data: content per suffix when it was asked for; None for a member beyond the limit.
    """

    sample_index: int
    key: str
    sample_offset: int
    sample_length: int
    members: tuple[TarMember, ...]
    data: Mapping[str, bytes | None] = field(default_factory=dict)

    def member(self, suffix: str) -> TarMember | None:
        """Return the member with this suffix, or None."""
        return next((member for member in self.members if member.suffix == suffix), None)


def iter_samples(
    stream: BinaryIO,
    *,
    read: bool = False,
    suffixes: Collection[str] | None = None,
    max_member_bytes: int = MAX_MEMBER_BYTES,
    where: str = "tar",
) -> Iterator[TarSample]:
    """Yield the samples of a tar in order.

    A sample is yielded only when all its bytes, padding included, were there.

    Args:
        stream: an uncompressed tar at its first byte; need not be seekable.
        read: also return contents; else headers only.
        suffixes: read only these members; None for all.
        max_member_bytes: a longer member is stepped over, its data is None.
        where: name of the shard, for messages.
    Raises:
        NotATar: an empty file, or one that does not begin like a tar.
        CorruptFile: a damaged header, a file that was cut off, data after the end, a sample of more than
            MAX_SAMPLE_MEMBERS members.
    Cost: one pass; memory for one sample.
    Source: the naming rule of WebDataset; we differ: a repeated suffix begins a new sample instead of an error.
    """
    source = TarStream(stream, where=where)
    draft: _Draft | None = None
    sample_index = 0
    for member in iter_members(source):
        name = split_name(member.name) if member.is_regular else None
        if name is None:
            continue
        key, suffix = name
        if draft is not None and (draft.key != key or suffix in draft.members):
            yield draft.finished(sample_index)
            sample_index += 1
            draft = None
        if draft is None:
            draft = _Draft(key, member.header_offset, where)
        draft.add(member, suffix)
        if read and (suffixes is None or suffix in suffixes):
            fits = member.length <= max_member_bytes
            draft.data[suffix] = source.read(member.length, what=f"member {member.name!r}") if fits else None
    if draft is not None:
        yield draft.finished(sample_index)


def count_samples(stream: BinaryIO, *, where: str = "tar") -> int:
    """Return the number of samples of a tar, reading headers only.

    Raises:
        NotATar, CorruptFile: as `iter_samples`.
    """
    return sum(1 for _ in iter_samples(stream, where=where))


def split_name(name: str) -> tuple[str, str] | None:
    """Return (key, suffix) of a member's name, or None where it belongs to no sample.

    "a.b/c.jpg" gives ("a.b/c", "jpg"); "c", ".c", "a/.c.jpg" and "__meta__" give None.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    if not stem or not dot or _META.match(name):
        return None
    return folder + slash + stem, suffix.lower()


class _Draft:
    """A sample whose last member may not have come yet."""

    def __init__(self, key: str, offset: int, where: str) -> None:
        self.key = key
        self.members: dict[str, TarMember] = {}
        self.data: dict[str, bytes | None] = {}
        self._offset = offset
        self._stop = offset
        self._where = where

    def add(self, member: Member, suffix: str) -> None:
        if len(self.members) == MAX_SAMPLE_MEMBERS:
            raise CorruptFile(
                f"a sample may have {MAX_SAMPLE_MEMBERS} members; got more under {self.key!r} (offset {self._offset}, "
                f"{self._where}). A name is cut at its first dot: give each sample a name of its own."
            )
        self.members[suffix] = TarMember(suffix, member.offset, member.length)
        self._stop = member.stop

    def finished(self, sample_index: int) -> TarSample:
        length = self._stop - self._offset
        return TarSample(sample_index, self.key, self._offset, length, tuple(self.members.values()), self.data)
