"""One shard of the index and embed pass: read once, written as its own objects, answered with a small receipt."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from time import monotonic

from pydantic import Field

from superbatch.formats.errors import ShardChanged, SuperbatchError
from superbatch.formats.tar import iter_samples
from superbatch_server.encoders.protocol import DualEncoder
from superbatch_server.schemas.attempts import CacheEntry
from superbatch_server.schemas.base import Body
from superbatch_server.schemas.errors import InsufficientStorage
from superbatch_server.storage.disk import is_full
from superbatch_server.storage.roots import find_root, open_roots
from superbatch_server.storage.store import open_store
from superbatch_server.workers.artifacts import cache_entry
from superbatch_server.workers.embed import ShardEmbedder, render_embeddings
from superbatch_server.workers.index import OK, IndexSpec, IndexTable, check_rows, raw_rows
from superbatch_server.workers.model_files import EncoderFiles, EncoderShelf
from superbatch_server.workers.out_of_memory import is_out_of_memory
from superbatch_server.workers.shard_stream import checked_shard
from superbatch_server.workers.worker_settings import WorkerSettings


class ShardTask(Body):
    """What is wanted of one shard, and which of it the cache has already."""

    shard_id: int
    root: str
    key: str
    fingerprint: str
    sha256: str | None
    rows: int | None
    wanted_index_key: str
    wanted_embedding_key: str | None
    has_index: bool = False
    has_embedding: bool = False

    @property
    def index_key(self) -> str | None:
        """Cache key of the index to make, None when there is one."""
        return None if self.has_index else self.wanted_index_key

    @property
    def embedding_key(self) -> str | None:
        """Cache key of the embeddings to make, None when there are some or none are wanted."""
        return None if self.has_embedding else self.wanted_embedding_key


class ShardReceipt(Body):
    """What became of a task: the new cache entries, or an error that names the shard."""

    shard_id: int
    index: CacheEntry | None = None
    embedding: CacheEntry | None = None
    seconds: float = 0.0
    decode_s: float = Field(default=0.0, description="Checking and decoding rows.")
    encode_s: float = Field(default=0.0, description="In the reference's model.")
    write_s: float = Field(default=0.0, description="Rendering and storing the index and the embeddings.")
    error_code: str | None = None
    error: str | None = None
    may_retry: bool = True


@dataclass(frozen=True)
class EmbedSpec:
    """The reference that embeds, and the digests that its embeddings are cached under."""

    files: EncoderFiles
    encoder_digest: str
    numerics_digest: str


class ShardWorker:
    """Does shard tasks, one after another. Plain: executors put it where they want it to run."""

    def __init__(self, settings: WorkerSettings, *, embed: EmbedSpec | None, spec: IndexSpec) -> None:
        self._settings = settings
        self._embed = embed
        self._spec = spec
        self._roots = open_roots(settings.roots)
        self._store = open_store(settings.store_url)
        self._shelf = EncoderShelf(
            self._roots, folder=settings.model_folder, threads=settings.threads, dtype=settings.dtype
        )

    def run(self, task: ShardTask) -> ShardReceipt:
        """Return the receipt of one task; whatever goes wrong is in it, because one raised error ends a whole pass."""
        started = monotonic()
        try:
            receipt = self._run_in_memory(task)
            return receipt.model_copy(update={"seconds": monotonic() - started})
        except Exception as error:
            traceback.print_exc()
            code = error.code if isinstance(error, SuperbatchError) else "shard_failed"
            code = InsufficientStorage.code if is_full(error) else code
            return ShardReceipt(
                shard_id=task.shard_id,
                seconds=monotonic() - started,
                error_code=code,
                error=str(error) or type(error).__name__,
                may_retry=not isinstance(error, ShardChanged),
            )

    def _run_in_memory(self, task: ShardTask) -> ShardReceipt:
        """Do the task, halving the micro-batch for as long as memory runs out; the file records the one in force."""
        micro_batch = self._settings.micro_batch
        while True:
            try:
                return self._run(task, micro_batch)
            except Exception as error:
                if micro_batch == 1 or not is_out_of_memory(error):
                    raise
                micro_batch //= 2

    def _run(self, task: ShardTask, micro_batch: int) -> ShardReceipt:
        where = f"shard {task.shard_id}, root {task.root}, key {task.key!r}"
        index = IndexTable(self._spec) if task.index_key else None
        embedder = ShardEmbedder(self._encoder(), micro_batch=micro_batch) if task.embedding_key else None
        root, rows, decode_s = find_root(self._roots, task.root), 0, 0.0
        with checked_shard(root, task.key, fingerprint=task.fingerprint, sha256_hex=task.sha256, where=where) as stream:
            samples = iter_samples(
                stream,
                read=True,
                suffixes=self._spec.suffixes,
                max_member_bytes=self._spec.max_member_bytes,
                where=where,
            )
            for row in raw_rows(samples, self._spec):
                rows += 1
                started = monotonic()
                if index is not None:
                    index.add(row)
                if embedder is not None:
                    embedder.add(row.a, row.b)
                decode_s += monotonic() - started
        check_rows(rows, task.rows, where=where)
        encoded_s, started = embedder.encode_s if embedder is not None else 0.0, monotonic()
        receipt = ShardReceipt(
            shard_id=task.shard_id,
            index=self._put_index(task, index) if index is not None else None,
            embedding=self._put_embeddings(task, embedder, micro_batch) if embedder is not None else None,
            decode_s=decode_s - encoded_s,
        )
        encode_s = embedder.encode_s if embedder is not None else 0.0  # storing encodes the last micro-batch
        write_s = monotonic() - started - (encode_s - encoded_s)
        return receipt.model_copy(update={"encode_s": encode_s, "write_s": write_s})

    def _encoder(self) -> DualEncoder:
        assert self._embed is not None, "a task with an embedding key needs a reference"
        return self._shelf.get(self._embed.files)

    def _put_index(self, task: ShardTask, index: IndexTable) -> CacheEntry:
        assert task.index_key is not None
        return cache_entry(
            self._store,
            index.render(),
            kind="index",
            cache_key=task.index_key,
            writer=self._settings.writer,
            rows=len(index),
            quarantined=index.quarantined,
        )

    def _put_embeddings(self, task: ShardTask, embedder: ShardEmbedder, micro_batch: int) -> CacheEntry:
        assert task.embedding_key is not None
        assert self._embed is not None
        found = embedder.finish()
        digests = {"encoder": self._embed.encoder_digest, "numerics": self._embed.numerics_digest}
        bad = [verdict for verdict in found.verdict if verdict != OK]
        return cache_entry(
            self._store,
            render_embeddings(found, **digests, micro_batch=micro_batch),
            kind="embedding",
            cache_key=task.embedding_key,
            writer=self._settings.writer,
            rows=len(found.verdict),
            quarantined={reason: bad.count(reason) for reason in sorted(set(bad))},
        )
