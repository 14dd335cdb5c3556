"""The shard table: which shard holds which rows of a dataset, and where the shard lies."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from superbatch.formats.canonical import JsonObject, JsonValue
from superbatch.formats.errors import CorruptFile, InvalidInput
from superbatch.formats.json_fields import FORMAT_VERSION, JsonFields, as_fields
from superbatch.formats.keys import checked_key

SHARD_FORMATS = ("webdataset", "parquet", "jsonl")


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard of a dataset.

    shard_id: position in the dataset's manifest, from 0.
    root, key: name of the root, and path inside it.
    format: webdataset, parquet or jsonl.
    rows: raw rows, quarantined ones included.
    start_index: dataset_index of the first row.
    source: label by which filter ratios are reported.
    fingerprint: shard fingerprint, 64 hexadecimal digits.
    """

    shard_id: int
    root: str
    key: str
    format: str
    rows: int
    start_index: int
    source: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ShardTable:
    """All shards of a dataset in manifest order, and what is the same for all of them.

    caption_field of webdataset shards: the suffix of the caption's member ("txt"), or "<suffix>:<field>" for a field of
    a JSON member ("json:caption"). Of the other formats: the name of the field or column.
    a_field of Parquet and JSONL shards: the column or field that holds tower a; None in webdataset shards.
    Fields and columns may be nested: "meta.caption".
    """

    dataset_fingerprint: str
    kind_a: str
    kind_b: str
    caption_field: str | None
    shards: tuple[ShardEntry, ...]
    a_field: str | None = None

    def __post_init__(self) -> None:
        _check_order(self.shards)

    @property
    def num_rows(self) -> int:
        """Raw rows of the dataset."""
        return self.shards[-1].start_index + self.shards[-1].rows if self.shards else 0

    def shard_of(self, dataset_index: int) -> ShardEntry:
        """Return the shard that holds a row.

        Raises:
            InvalidInput: the row is not in the dataset.
        """
        if not 0 <= dataset_index < self.num_rows:
            raise InvalidInput(
                f"dataset_index must be in [0, {self.num_rows}); got {dataset_index}. Check the dataset."
            )
        # bisect_right steps over empty shards, which share their start_index with the one that follows.
        return self.shards[bisect_right(self.shards, dataset_index, key=lambda shard: shard.start_index) - 1]

    def to_json(self) -> dict[str, JsonValue]:
        """Return the table as a JSON object."""
        return {
            "format_version": FORMAT_VERSION,
            "dataset_fingerprint": self.dataset_fingerprint,
            "kind_a": self.kind_a,
            "kind_b": self.kind_b,
            "caption_field": self.caption_field,
            **({} if self.a_field is None else {"a_field": self.a_field}),
            "shards": [asdict(shard) for shard in self.shards],
        }

    @classmethod
    def from_json(cls, source: JsonObject | bytes | str, *, where: str = "shard table") -> ShardTable:
        """Return the table that `to_json` wrote; unknown keys are ignored.

        Args:
            source: JSON text, or the object already parsed.
            where: name of the document, for messages.
        Raises:
            CorruptFile: not JSON, a field missing or of another type, shards out of order, a key that could leave its
                root.
            UnsupportedVersion: another major version.
        """
        fields = as_fields(source, where=where)
        fields.check_version()
        try:
            return cls(
                dataset_fingerprint=fields.sha256_hex("dataset_fingerprint"),
                kind_a=fields.text("kind_a"),
                kind_b=fields.text("kind_b"),
                caption_field=fields.optional_text("caption_field"),
                a_field=fields.optional_text("a_field"),
                shards=tuple(_shard_from(shard) for shard in fields.objects("shards")),
            )
        except InvalidInput as error:
            raise CorruptFile(f"{error} ({where})") from error


def _shard_from(fields: JsonFields) -> ShardEntry:
    return ShardEntry(
        shard_id=fields.integer("shard_id"),
        root=fields.text("root"),
        key=checked_key(fields.text("key"), where=fields.where),
        format=fields.choice("format", SHARD_FORMATS),
        rows=fields.integer("rows"),
        start_index=fields.integer("start_index"),
        source=fields.text("source"),
        fingerprint=fields.sha256_hex("fingerprint"),
    )


def _check_order(shards: Sequence[ShardEntry]) -> None:
    start_index = 0
    for position, shard in enumerate(shards):
        if shard.shard_id != position or shard.start_index != start_index:
            raise InvalidInput(
                "shards must be numbered from 0 and follow each other without a gap; "
                f"got shard_id {shard.shard_id} with "
                f"start_index {shard.start_index} where {position} and {start_index} belong. "
                "Build the table in manifest order."
            )
        start_index += shard.rows
