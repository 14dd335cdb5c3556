"""Shards of every format with what they hold, and the slow obvious way to read them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from superbatch.formats.batch_list import batch_rows
from superbatch.formats.shards import ShardEntry, ShardTable
from superbatch.formats.tar import iter_samples
from superbatch.formats.uid import uid_of_bytes
from tests.superbatch.formats.sample_batches import a_shard_table, a_tar

Pair = tuple[bytes, str]
Place = dict[str, object]


@dataclass
class Shards:
    """A folder of shards, the shard table, and per row of the data set where it lies and what it holds."""

    root: Path
    table: ShardTable
    places: list[Place]
    pairs: list[tuple[bytes, bytes]]

    def batch(self, chosen: Sequence[int]) -> pa.RecordBatch:
        """The rows of these dataset_index as a batch."""
        names = sorted({name for place in self.places for name in place})
        columns: dict[str, Sequence[object]] = {
            name: [self.places[index].get(name) for index in chosen] for name in names
        }
        head = {"batch_seq": [7] * len(chosen), "slot": list(range(len(chosen))), "variant": [0] * len(chosen)}
        uids = [uid_of_bytes(*self.pairs[index]) for index in chosen]
        return batch_rows({**columns, **head, "uid": uids, "dataset_index": list(chosen)}).to_batches()[0]

    def wanted(self, chosen: Sequence[int]) -> list[tuple[bytes, bytes]]:
        """What a reader must hand out for them."""
        return [self.pairs[index] for index in chosen]


def shard_table(names: Sequence[str], sizes: Sequence[int], *, format: str, **fields: str) -> ShardTable:
    """A table of shards with these keys and numbers of rows."""
    plain = a_shard_table(*sizes)
    entries: list[ShardEntry] = [
        replace(entry, key=name, format=format) for entry, name in zip(plain.shards, names, strict=True)
    ]
    return replace(plain, shards=tuple(entries), **fields)  # type: ignore[arg-type]


def write_tars(root: Path, shards: Sequence[Sequence[Pair]]) -> Shards:
    """Tars of `<n>.png` and `<n>.txt`."""
    places: list[Place] = []
    pairs = []
    names = [f"tars/{shard_id:06d}.tar" for shard_id in range(len(shards))]
    for shard_id, (name, rows) in enumerate(zip(names, shards, strict=True)):
        files = [
            (f"{number}.{suffix}", content)
            for number, (a, b) in enumerate(rows)
            for suffix, content in (("png", a), ("txt", b.encode()))
        ]
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(a_tar(files))
        with (root / name).open("rb") as stream:
            for sample in iter_samples(stream):
                (png, txt), place = sample.members, {"shard_id": shard_id, "sample_index": sample.sample_index}
                place |= {"a_offset": png.offset, "a_length": png.length}
                places.append(place | {"b_offset": txt.offset, "b_length": txt.length})
        with tarfile.open(root / name) as tar:
            contents = [extracted.read() for member in tar if (extracted := tar.extractfile(member))]
        pairs += list(zip(contents[::2], contents[1::2], strict=True))
    return Shards(root, shard_table(names, [len(rows) for rows in shards], format="webdataset"), places, pairs)


def write_parquet(
    root: Path,
    shards: Sequence[Sequence[Pair]],
    *,
    rows_per_group: int = 3,
    as_struct: bool = True,
    wide: bool = False,
    nested: bool = False,
    compression: str = "zstd",
    page_bytes: int = 1 << 20,
) -> Shards:
    """Parquet with a picture column and a caption column in the given types, and columns that nobody wants."""
    text, binary = (pa.large_string(), pa.large_binary()) if wide else (pa.string(), pa.binary())
    places: list[Place] = []
    pairs = []
    names = [f"parquet/{shard_id:06d}.parquet" for shard_id in range(len(shards))]
    for shard_id, (name, rows) in enumerate(zip(names, shards, strict=True)):
        pictures = [a for a, _ in rows]
        captions = [b for _, b in rows]
        picture = pa.struct([("bytes", binary), ("path", pa.string())]) if as_struct else binary
        caption = pa.struct([("n", pa.int32()), ("caption", pa.list_(text))]) if nested else text
        table = pa.table(
            {
                "image2": pa.array([b"n" * 5000] * len(rows)),
                "image": pa.array(_with_paths(pictures) if as_struct else pictures, type=picture),
                "meta": pa.array([{"caption": ["no", b]} for b in captions] if nested else captions, type=caption),
            }
        )
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            table,
            root / name,
            row_group_size=rows_per_group,
            compression=compression,
            write_page_checksum=True,
            data_page_size=page_bytes,
        )
        for number, row in enumerate(pq.read_table(root / name).to_pylist()):
            place: Place = {"shard_id": shard_id, "sample_index": number, "caption_index": 1 if nested else None}
            places.append(place | {"row_group": number // rows_per_group, "row_in_group": number % rows_per_group})
            a = row["image"]["bytes"] if as_struct else row["image"]
            b = row["meta"]["caption"][1] if nested else row["meta"]
            pairs.append((a, b.encode()))
    fields = {"a_field": "image", "caption_field": "meta.caption" if nested else "meta"}
    return Shards(root, shard_table(names, [len(rows) for rows in shards], format="parquet", **fields), places, pairs)


def _with_paths(pictures: Sequence[bytes]) -> list[dict[str, object]]:
    """Pictures as Hugging Face writes them: the path is that of a file that once was."""
    return [{"bytes": picture, "path": f"{number}.png"} for number, picture in enumerate(pictures)]


def write_jsonl(root: Path, shards: Sequence[Sequence[Pair]], *, caption_files: bool = False) -> Shards:
    """JSONL with a picture file per row, and the caption in the line or in a file of its own."""
    places: list[Place] = []
    names = [f"jsonl/{shard_id:06d}.jsonl" for shard_id in range(len(shards))]
    (root / "jsonl").mkdir(parents=True, exist_ok=True)
    for shard_id, (name, rows) in enumerate(zip(names, shards, strict=True)):
        offset, lines = 0, b""
        for number, (a, b) in enumerate(rows):
            picture, caption = f"jsonl/{shard_id}-{number}.png", f"jsonl/{shard_id}-{number}.txt"
            (root / picture).write_bytes(a)
            (root / caption).write_text(b, newline="", encoding="utf-8")
            line = json.dumps({"n": number, "meta": {"caption": b}}, ensure_ascii=False).encode()
            place: Place = {"shard_id": shard_id, "sample_index": number, "a_path": picture}
            place |= {"b_path": caption} if caption_files else {"sample_offset": offset, "sample_length": len(line)}
            places.append(place)
            lines += line + b"\n"
            offset = len(lines)
        (root / name).write_bytes(lines)
    pairs = [
        ((root / str(place["a_path"])).read_bytes(), b.encode())
        for place, (_, b) in zip(places, (pair for rows in shards for pair in rows), strict=True)
    ]
    table = shard_table(names, [len(rows) for rows in shards], format="jsonl", caption_field="meta.caption")
    return Shards(root, table, places, pairs)
