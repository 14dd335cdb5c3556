"""The table of a job's reference embeddings, by which a trainer that selects by itself finds them in the store."""

from __future__ import annotations

from superbatch.formats.embedding_shard import TABLE_NAME, EmbeddingEntry, EmbeddingTable, StoredObject
from superbatch_server.schemas.attempts import AttemptBundle, CacheEntry
from superbatch_server.storage.store import ArtifactStore
from superbatch_server.workers.lists import log_prefix
from superbatch_server.workers.pool import Pool


def put_embedding_table(bundle: AttemptBundle, store: ArtifactStore, pool: Pool) -> None:
    """Write the table below the job's prefix, if there is none; nothing for a job without a reference.

    The catalog keeps the first object of each cache key, so every attempt of a job writes the same bytes.
    Args:
        pool: complete.
    """
    if bundle.reference is None:
        return
    shards = []
    for shard in sorted(bundle.shards, key=lambda shard: shard.shard_id):
        index, embedding = pool.objects_of(shard.shard_id)
        assert embedding is not None, "a job with a reference embeds every shard"
        assert shard.start_index is not None, "a READY data set knows its rows"
        shards.append(EmbeddingEntry(shard.shard_id, shard.start_index, index.rows, _stored(index), _stored(embedding)))
    table = EmbeddingTable(
        job=bundle.job_id,
        history_id=bundle.history_id,
        dataset_fingerprint=bundle.dataset_fingerprint,
        reference_digest=bundle.reference.digest,
        shards=tuple(shards),
    )
    store.put_new(f"{log_prefix(bundle)}/{TABLE_NAME}", table.render())


def _stored(entry: CacheEntry) -> StoredObject:
    return StoredObject(entry.object_key, entry.bytes, entry.sha256)
