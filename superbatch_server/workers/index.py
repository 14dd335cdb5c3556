"""The index of a shard: what its rows are, where they lie, and which of them cannot be used and why.

The file is Parquet of `storage.index_files.INDEX_SCHEMA`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import pyarrow as pa

from superbatch.formats import embedding_shard
from superbatch.formats.errors import ShardChanged
from superbatch.formats.parquet_file import ParquetSource, render_parquet
from superbatch.formats.tar import TarMember, TarSample
from superbatch.formats.uid import row_uid
from superbatch.tiny.picture import BadRow, BadRowReason, open_picture, read_caption
from superbatch_server.storage.index_files import INDEX_SCHEMA
from superbatch_server.storage.index_spec import IndexSpec

__all__ = ["OK", "IndexSpec", "IndexTable", "RawRow", "RowsMismatch", "check_rows", "raw_rows", "read_index"]

OK = embedding_shard.OK


class RowsMismatch(ShardChanged):
    """A shard does not have as many rows as were registered."""

    code = "rows_mismatch"


@dataclass(frozen=True, eq=False)
class RawRow:
    """One row as stored: both towers' bytes, None where missing or beyond the limit."""

    sample: TarSample
    a_member: TarMember | None
    b_member: TarMember | None
    a: bytes | None
    b: bytes | None


def raw_rows(samples: Iterable[TarSample], spec: IndexSpec) -> Iterator[RawRow]:
    """Yield the row of each sample: its picture by the order of suffixes, and its caption."""
    for sample in samples:
        a_member = next((m for suffix in spec.picture_suffixes if (m := sample.member(suffix))), None)
        b_member = sample.member(spec.caption_suffix)
        yield RawRow(sample, a_member, b_member, _content(sample, a_member), _content(sample, b_member))


class IndexTable:
    """The rows of one shard's index while they come in."""

    def __init__(self, spec: IndexSpec) -> None:
        self._spec = spec
        self._columns: dict[str, list[object]] = {name: [] for name in INDEX_SCHEMA.names}
        self.quarantined: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._columns["uid"])

    def add(self, row: RawRow) -> None:
        """Index one row; a broken one gets its reason as verdict and never raises."""
        a_sha256 = sha256(row.a or b"").digest()
        found: dict[str, object] = {
            "uid": row_uid(a_sha256, sha256(row.b or b"").digest()),
            "a_sha256": a_sha256,
            "key": row.sample.key,
            "sample_offset": row.sample.sample_offset,
            "sample_length": row.sample.sample_length,
            **_place("a", row.a_member),
            **_place("b", row.b_member),
            **_judged(row, self._spec),
        }
        for name, values in self._columns.items():
            values.append(found.get(name))
        verdict = str(found["verdict"])
        if verdict != OK:
            self.quarantined[verdict] = self.quarantined.get(verdict, 0) + 1

    def render(self) -> bytes:
        """Return the index file; the same shard always gives the same bytes under one version of pyarrow."""
        table = pa.table(self._columns, schema=INDEX_SCHEMA)
        return render_parquet(
            [table],
            INDEX_SCHEMA,
            file_kind=embedding_shard.INDEX_KIND,
            metadata={"superbatch.index_spec": self._spec.digest().hex()},
        )


def read_index(data: bytes) -> pa.RecordBatch:
    """Return the rows of an index file.

    Raises: CorruptFile, UnsupportedVersion.
    """
    return ParquetSource(data, INDEX_SCHEMA, file_kind=embedding_shard.INDEX_KIND).read_group(0)


def check_rows(found: int, registered: int | None, *, where: str) -> None:
    """Raise RowsMismatch unless a shard has the rows it was registered with."""
    if registered is not None and found != registered:
        raise RowsMismatch(
            f"a shard must have the rows it was registered with; got {found} instead of {registered} ({where}). "
            "Register the data set anew with the right count, or without one."
        )


def _content(sample: TarSample, member: TarMember | None) -> bytes | None:
    return sample.data.get(member.suffix) if member else None


def _place(tower: str, member: TarMember | None) -> dict[str, object]:
    return {f"{tower}_offset": member.offset, f"{tower}_length": member.length} if member else {}


def _judged(row: RawRow, spec: IndexSpec) -> dict[str, object]:
    """Return verdict, caption, width and height; the picture is looked at first."""
    found: dict[str, object] = {"verdict": OK}
    try:
        found["caption"] = read_caption(row.b)
    except BadRow as error:
        found["verdict"] = str(error.reason)
    try:
        if row.a_member is not None and row.a is None:
            raise BadRow(BadRowReason.PICTURE_TOO_LARGE, f"more than {spec.max_member_bytes} bytes")
        found["width"], found["height"] = open_picture(row.a, max_pixels=spec.max_pixels).size
    except BadRow as error:
        found["verdict"] = str(error.reason)
    return found
