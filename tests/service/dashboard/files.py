"""What the made-up jobs left in the store and in the folder of logs: index files with quarantined rows, a log."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from sqlalchemy import Connection, insert, update

from superbatch.formats.embedding_shard import INDEX_KIND
from superbatch.formats.parquet_file import render_parquet
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import attempts, cache
from superbatch_server.storage.index_files import INDEX_SCHEMA
from superbatch_server.storage.index_spec import IndexSpec, index_cache_key
from superbatch_server.storage.store import ArtifactStore
from tests.service.dashboard.seed import HOSTILE, SOURCES, digest

OVERRIDE = "\u202egnp.exe\u2066"
ESCAPES = "\x1b[31mred\x1b[0m\x07\x00"
MEGABYTE = "caption " * (1 << 17)
BAD_ROWS: tuple[tuple[str, str, str | None], ...] = (
    ("bad-0", "undecodable_image", HOSTILE),
    ("bad-1", "undecodable_image", OVERRIDE),
    ("bad-2", "empty_caption", None),
    ("bad-3", "image_too_large", MEGABYTE),
    ("bad-4", "empty_caption", ESCAPES),
)
"""Key, reason and caption of the quarantined rows of each shard; the other rows are good."""


def put_indexes(connection: Connection, store: ArtifactStore, *, num_rows: int = 60) -> None:
    """Put an index file of every shard of the pool into store and catalog; rows 7, 14, ... are bad."""
    for shard_id in range(len(SOURCES)):
        put_index(connection, store, f"pool-{shard_id:02}.tar", BAD_ROWS, num_rows=num_rows)


def put_index(
    connection: Connection,
    store: ArtifactStore,
    shard: str,
    bad: Sequence[tuple[str, str, str | None]],
    *,
    num_rows: int,
) -> None:
    """Put one index file; `bad` rows stand at 7, 14, 21, ..."""
    by_row = {7 * (i + 1): row for i, row in enumerate(bad)}
    rows = [by_row.get(i, (f"good-{i}", "ok", "a good caption")) for i in range(num_rows)]
    table = pa.table(
        {
            "uid": [hashlib.sha256(f"{shard} {i}".encode()).digest()[:16] for i in range(num_rows)],
            "a_sha256": [hashlib.sha256(f"{shard} {i}".encode()).digest() for i in range(num_rows)],
            "key": [key for key, _, _ in rows],
            "sample_offset": list(range(num_rows)),
            "sample_length": [512] * num_rows,
            **{name: [None] * num_rows for name in ("a_offset", "a_length", "b_offset", "b_length")},
            "caption": [caption for _, _, caption in rows],
            "width": [None if verdict == "undecodable_image" else 32 for _, verdict, _ in rows],
            "height": [None if verdict == "undecodable_image" else 48 for _, verdict, _ in rows],
            "verdict": [verdict for _, verdict, _ in rows],
        },
        schema=INDEX_SCHEMA,
    )
    data = render_parquet([table], INDEX_SCHEMA, file_kind=INDEX_KIND, metadata={})
    cache_key = index_cache_key(digest(shard), IndexSpec())
    store.put_new(f"cache/index/{cache_key}/made.parquet", data)
    counts: dict[str, int] = {}
    for _, reason, _ in by_row.values():
        counts[reason] = counts.get(reason, 0) + 1
    connection.execute(
        insert(cache).values(
            cache_key=cache_key,
            kind="index",
            object_key=f"cache/index/{cache_key}/made.parquet",
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            rows=num_rows,
            quarantined=stored(counts),
            created_ms=now_ms(connection),
        )
    )


def put_log(connection: Connection, job_id: str, path: Path, content: bytes) -> None:
    """Write the log of a job's first attempt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    where = (attempts.c.job_id == job_id) & (attempts.c.token == 1)
    connection.execute(update(attempts).where(where).values(log_path=str(path)))
