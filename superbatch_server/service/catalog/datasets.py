"""Data sets in the catalog: registered VERIFYING with their shards, then READY or INVALID, and never changed after."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from superbatch.formats import shards as table_format
from superbatch_server.schemas.datasets import Dataset, DatasetManifest, DatasetState, ShardEntry, ShardRef
from superbatch_server.schemas.errors import DatasetNotReady, InUse, NotFound
from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.pages import PageQuery, read_page
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import dataset_shards, datasets, jobs


def register_dataset(connection: Connection, manifest: DatasetManifest, shards: Sequence[ShardRef]) -> Dataset:
    """Add a data set to be verified; `shards` are the manifest's with every pattern expanded."""
    dataset_id = f"dataset_{secrets.token_hex(8)}"
    connection.execute(
        insert(datasets).values(
            id=dataset_id,
            name=manifest.name,
            state=DatasetState.VERIFYING,
            manifest=stored(manifest),
            created_ms=now_ms(connection),
        )
    )
    connection.execute(
        insert(dataset_shards),
        [
            {"dataset_id": dataset_id, "shard_id": shard_id, **shard.model_dump(include={"key", "source", "sha256"})}
            | {"rows": shard.rows}
            for shard_id, shard in enumerate(shards)
        ],
    )
    return get_dataset(connection, dataset_id)


def dataset_row(connection: Connection, dataset_id: str, *, lock: bool = False) -> RowMapping:
    """Return a data set's row, or raise NotFound."""
    query = select(datasets).where(datasets.c.id == dataset_id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"a data set must exist; got {dataset_id!r} (dataset). List them with GET /v1/datasets.")
    return row


def get_dataset(connection: Connection, dataset_id: str) -> Dataset:
    """Return one data set."""
    return _dataset(connection, dataset_row(connection, dataset_id))


def list_datasets(connection: Connection, query: PageQuery) -> tuple[list[Dataset], str | None]:
    """Return a page of data sets, newest first."""
    rows, token = read_page(connection, datasets, query)
    return [_dataset(connection, row) for row in rows], token


def delete_dataset(connection: Connection, dataset_id: str) -> None:
    """Forget a data set that no job refers to; its shards are the owner's and stay."""
    dataset_row(connection, dataset_id, lock=True)
    users = connection.execute(select(jobs.c.id).where(jobs.c.dataset_id == dataset_id).limit(3)).scalars().all()
    if users:
        raise InUse(
            f"a data set can be deleted when no job refers to it; got {', '.join(users)} (dataset {dataset_id}). "
            "Delete these jobs first."
        )
    connection.execute(delete(datasets).where(datasets.c.id == dataset_id))


def shard_entries(connection: Connection, dataset_id: str) -> list[ShardEntry]:
    """Return the shards in manifest order."""
    query = select(dataset_shards).where(dataset_shards.c.dataset_id == dataset_id).order_by(dataset_shards.c.shard_id)
    return [
        ShardEntry.model_validate({name: row[name] for name in ShardEntry.model_fields})
        for row in connection.execute(query).mappings()
    ]


def shard_table(connection: Connection, dataset_id: str) -> table_format.ShardTable:
    """Return what a reader needs to find rows; the data set must be READY."""
    dataset = get_dataset(connection, dataset_id)
    require_ready(dataset)
    manifest = dataset.manifest
    assert dataset.fingerprint is not None
    return table_format.ShardTable(
        dataset_fingerprint=dataset.fingerprint,
        kind_a=manifest.kind_a,
        kind_b=manifest.kind_b,
        caption_field=manifest.caption_field,
        shards=tuple(_table_entry(manifest, shard) for shard in shard_entries(connection, dataset_id)),
    )


def require_ready(dataset: Dataset) -> None:
    """Raise DatasetNotReady, with what is wrong with an INVALID one, unless the data set is READY."""
    if dataset.state is not DatasetState.READY:
        remedy = dataset.error or "Wait until it is verified."
        raise DatasetNotReady(f"a data set must be READY; got {dataset.state} (dataset {dataset.id}). {remedy}")


def pending_dataset(connection: Connection) -> Dataset | None:
    """Return the oldest data set that is still to be verified."""
    query = (
        select(datasets)
        .where(datasets.c.state == DatasetState.VERIFYING)
        .order_by(datasets.c.created_ms, datasets.c.id)
        .limit(1)
    )
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _dataset(connection, row)


def record_shard(connection: Connection, dataset_id: str, shard_id: int, *, rows: int, fingerprint: str) -> None:
    """Keep what was found in one shard, so that an interrupted verification goes on after it."""
    connection.execute(
        update(dataset_shards)
        .where(dataset_shards.c.dataset_id == dataset_id, dataset_shards.c.shard_id == shard_id)
        .values(rows=rows, fingerprint=fingerprint)
    )


def finish_dataset(
    connection: Connection, dataset_id: str, *, fingerprint: str, start_indexes: Sequence[int], rows: int
) -> None:
    """Make a VERIFYING data set READY; no effect when another supervisor came first."""
    if not _leave_verifying(connection, dataset_id, state=DatasetState.READY, fingerprint=fingerprint, rows=rows):
        return
    for shard_id, start_index in enumerate(start_indexes):
        connection.execute(
            update(dataset_shards)
            .where(dataset_shards.c.dataset_id == dataset_id, dataset_shards.c.shard_id == shard_id)
            .values(start_index=start_index)
        )


def refuse_dataset(connection: Connection, dataset_id: str, *, code: str, message: str) -> None:
    """Make a VERIFYING data set INVALID; no effect when another supervisor came first."""
    _leave_verifying(connection, dataset_id, state=DatasetState.INVALID, error_code=code, error=message)


def _leave_verifying(connection: Connection, dataset_id: str, **values: str | int) -> bool:
    pending = (datasets.c.id == dataset_id) & (datasets.c.state == DatasetState.VERIFYING)
    return connection.execute(update(datasets).where(pending).values(**values)).rowcount == 1


def _dataset(connection: Connection, row: RowMapping) -> Dataset:
    of_row = dataset_shards.c.dataset_id == row["id"]
    return Dataset(
        id=row["id"],
        name=row["name"],
        state=DatasetState(row["state"]),
        manifest=DatasetManifest.model_validate_json(row["manifest"]),
        fingerprint=row["fingerprint"],
        rows=row["rows"],
        num_shards=connection.execute(select(func.count()).select_from(dataset_shards).where(of_row)).scalar_one(),
        error_code=row["error_code"],
        error=row["error"],
        created_at=rfc3339(row["created_ms"]),
    )


def _table_entry(manifest: DatasetManifest, shard: ShardEntry) -> table_format.ShardEntry:
    assert shard.rows is not None
    assert shard.start_index is not None
    assert shard.fingerprint is not None
    return table_format.ShardEntry(
        shard_id=shard.shard_id,
        root=manifest.root,
        key=shard.key,
        format=manifest.format,
        rows=shard.rows,
        start_index=shard.start_index,
        source=shard.source,
        fingerprint=shard.fingerprint,
    )
