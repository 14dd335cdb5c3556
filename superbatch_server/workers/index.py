"""The index of a shard: what its rows are, where they lie, and which of them cannot be used and why.

One row of the index per raw row of the shard, in order, so that a row's place is its sample_index. The file is Parquet
of INDEX_SCHEMA. It says nothing about a dataset (shard_id, dataset_index, source label): the same shard in another
dataset shares it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import pyarrow as pa

from superbatch.formats import embedding_shard
from superbatch.formats.canonical import canonical_json
from superbatch.formats.errors import ShardChanged
from superbatch.formats.parquet_file import ParquetSource, render_parquet
from superbatch.formats.tar import MAX_MEMBER_BYTES, TarMember, TarSample
from superbatch.formats.uid import UID_BYTES, row_uid
from superbatch.tiny.picture import FORMATS, MAX_PIXELS, BadRow, BadRowReason, open_picture, read_caption

OK = embedding_shard.OK

INDEX_SCHEMA = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("a_sha256", pa.binary(32), nullable=False),  # content identity of tower a
        pa.field("key", pa.string(), nullable=False),
        pa.field("sample_offset", pa.int64(), nullable=False),
        pa.field("sample_length", pa.int64(), nullable=False),
        pa.field("a_offset", pa.int64()),  # null: the sample has no such member
        pa.field("a_length", pa.int64()),
        pa.field("b_offset", pa.int64()),
        pa.field("b_length", pa.int64()),
        pa.field("caption", pa.string()),  # stripped; null where it is missing, empty or not UTF-8
        pa.field("width", pa.int32()),  # null where the picture cannot be decoded
        pa.field("height", pa.int32()),
        pa.field("verdict", pa.string(), nullable=False),  # "ok", or why the row is quarantined
    ]
)


class RowsMismatch(ShardChanged):
    """A shard does not have as many rows as were registered."""

    code = "rows_mismatch"


@dataclass(frozen=True)
class IndexSpec:
    """The rules that decide an index besides the shard's bytes; `digest` is part of the cache key."""

    version: int = 1
    max_pixels: int = MAX_PIXELS
    max_member_bytes: int = MAX_MEMBER_BYTES
    picture_formats: tuple[str, ...] = FORMATS
    picture_suffixes: tuple[str, ...] = ("png", "jpg", "jpeg", "webp")
    """The first of these that a sample has is tower a."""
    caption_suffix: str = "txt"
    caption_rule: str = "utf-8, stripped, not empty"

    def digest(self) -> bytes:
        """Return sha256("superbatch-index-spec-v1" 0x00 + canonical JSON of the fields)."""
        fields = {**vars(self), "picture_formats": list(self.picture_formats)}
        fields["picture_suffixes"] = list(self.picture_suffixes)
        return sha256(b"superbatch-index-spec-v1\0" + canonical_json(fields)).digest()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Members whose contents must be read."""
        return (*self.picture_suffixes, self.caption_suffix)


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
