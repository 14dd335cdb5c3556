"""Data sets of real tars that were really indexed: the committed sample, and one whose every text is hostile."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
from sqlalchemy import Connection, insert

from superbatch.formats.tar import iter_samples
from superbatch_server.schemas.datasets import DatasetManifest, ShardRef
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import cache, dataset_shards, datasets
from superbatch_server.storage.index_files import IndexSpec, index_cache_key
from superbatch_server.storage.store import ArtifactStore
from superbatch_server.workers.index import OK, IndexTable, raw_rows, read_index

SAMPLE = Path(__file__).parents[2] / "examples" / "sample" / "data"
SOURCES = ("emoji", "flags", "material", "line")
MARKUP = '<img src=x onerror="document.title=\'broken\'"><script>document.title="broken"</script>'
HOSTILE_CAPTIONS = (
    MARKUP,
    "\u202eright to left\u202c \u2066isolated\u2069 שלום עולם مرحبا بالعالم",
    "bell \x07, escape \x1b[31m, null \x00, delete \x7f, line\x0bfeed",
    "a" * (1 << 20),
    "{{ 7 * 7 }} {% raw %} ${7*7} <%= 7 %>",
    "</title></textarea></style><!-- ]]> --> &lt;b&gt; &#60;",
    "\ufdfd" * 400 + "\u0301" * 400,
    "no trouble at all",
)


@dataclass(frozen=True)
class Indexed:
    """A READY data set whose shards are indexed: `uids` by dataset_index, and the rows that may be drawn."""

    id: str
    fingerprint: str
    uids: list[bytes]
    eligible: list[int]
    source_of: list[str]
    quarantined: dict[str, int]

    @property
    def rows_by_source(self) -> dict[str, tuple[int, int]]:
        """Raw and eligible rows of each source."""
        usable = {self.source_of[row] for row in self.eligible}
        count = {name: [self.source_of[row] for row in self.eligible].count(name) for name in usable}
        return {name: (self.source_of.count(name), count.get(name, 0)) for name in dict.fromkeys(self.source_of)}


def sample_shards() -> dict[str, str]:
    """Return half of the pool's shards, one of each source."""
    return {f"pool-{source}-000.tar": source for source in SOURCES}


def hostile_tar(folder: Path) -> dict[str, str]:
    """Write a small tar of good pictures under hostile captions and keys, and of pictures that cannot be drawn."""
    with tarfile.open(SAMPLE / "pool-emoji-000.tar") as tar:
        members = [member for member in tar.getmembers() if member.name.endswith(".png")][:32]
        pictures = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    with tarfile.open(SAMPLE / "pool-emoji-000.tar") as tar, tarfile.open(folder / "hostile.tar", "w") as out:
        for number, picture in enumerate(pictures):
            caption = f"{HOSTILE_CAPTIONS[number % len(HOSTILE_CAPTIONS)]} {number}"
            key = f"{number:04d}<b>{'k' * (90 if number % 5 == 0 else 3)}"
            is_broken = number in (9, 10)
            _add(out, f"{key}.png", b"<svg onload=alert(1)>" if is_broken else picture)
            _add(out, f"{key}.txt", caption.encode())
    return {"hostile.tar": "hostile"}


def add_pool(
    connection: Connection, store: ArtifactStore, *, name: str, root: str, folder: Path, shards: dict[str, str]
) -> Indexed:
    """Register shards of `folder` as a READY data set, and index each as a worker does."""
    dataset_id = f"dataset_{sha256(name.encode()).hexdigest()[:16]}"
    fingerprint = sha256(b"fingerprint of " + name.encode()).hexdigest()
    manifest = DatasetManifest(
        name=name, root=root, shards=[ShardRef(key=key, source=source) for key, source in shards.items()]
    )
    tables = {key: _index(connection, store, folder / key) for key in shards}
    num_rows = sum(table.num_rows for table in tables.values())
    connection.execute(
        insert(datasets).values(
            id=dataset_id,
            name=name,
            state="READY",
            manifest=stored(manifest),
            fingerprint=fingerprint,
            rows=num_rows,
            created_ms=now_ms(connection),
        )
    )
    start = 0
    for shard_id, (key, source) in enumerate(shards.items()):
        connection.execute(
            insert(dataset_shards).values(
                dataset_id=dataset_id,
                shard_id=shard_id,
                key=key,
                source=source,
                rows=tables[key].num_rows,
                start_index=start,
                fingerprint=_digest(folder / key),
            )
        )
        start += tables[key].num_rows
    uids = [uid for table in tables.values() for uid in table.column("uid").to_pylist()]
    verdicts = [verdict for table in tables.values() for verdict in table.column("verdict").to_pylist()]
    return Indexed(
        id=dataset_id,
        fingerprint=fingerprint,
        uids=uids,
        eligible=[row for row, verdict in enumerate(verdicts) if verdict == OK],
        source_of=[source for key, source in shards.items() for _ in range(tables[key].num_rows)],
        quarantined={reason: verdicts.count(reason) for reason in sorted(set(verdicts) - {OK})},
    )


def _index(connection: Connection, store: ArtifactStore, path: Path) -> pa.RecordBatch:
    spec = IndexSpec()
    table = IndexTable(spec)
    with path.open("rb") as file:
        samples = iter_samples(
            file, read=True, suffixes=spec.suffixes, max_member_bytes=spec.max_member_bytes, where=path.name
        )
        for row in raw_rows(samples, spec):
            table.add(row)
    data, cache_key = table.render(), index_cache_key(_digest(path), spec)
    object_key = f"cache/index/{cache_key}/made-up-1.parquet"
    store.put_new(object_key, data)
    connection.execute(
        insert(cache).values(
            cache_key=cache_key,
            kind="index",
            object_key=object_key,
            bytes=len(data),
            sha256=sha256(data).hexdigest(),
            rows=len(table),
            quarantined=stored(table.quarantined),
            created_ms=now_ms(connection),
        )
    )
    return read_index(data)


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
