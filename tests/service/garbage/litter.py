"""A catalog and a store in which everything goes wrong: races, zombies, half-made commits, deletions."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, delete, insert, select

from superbatch_server.schemas.attempts import CacheEntry, Finish
from superbatch_server.schemas.datasets import DatasetManifest, DatasetState, ShardRef
from superbatch_server.schemas.errors import LeaseLost
from superbatch_server.schemas.garbage import GarbageReport, GarbageRunState
from superbatch_server.service.catalog import attempts, claims, gc_runs, lease, queue
from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.datasets import delete_dataset
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.jobs import delete_job
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.catalog.segments import commit_segment, job_prefix, newest_log_files
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import cache, cache_uses, datasets, jobs, segments
from superbatch_server.service.settings import Settings
from superbatch_server.service.upkeep.garbage.collector import Places, collect_pending
from superbatch_server.service.upkeep.garbage.ownership import MARK
from superbatch_server.storage.store import ArtifactStore
from superbatch_server.storage.uploads import Uploads
from tests.service.catalog.builders import claim_if, held, job, record_rows, segment_commit, sha, spec

LATER_S = 10 * 365 * 86_400.0
"""How far the clock of a run is ahead: every file looks old."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Litter:
    """What drivers, users and collectors do, one call each."""

    def __init__(self, engine: Engine, store: ArtifactStore, folder: Path) -> None:
        self.engine, self.store = engine, store
        self.settings = Settings(data_dir=folder, gc_min_age_s=0)
        self.uploads = Uploads(self.settings.uploads_dir)
        self.places = Places(engine, store, self.uploads, self.settings)

    def submit(self, dataset_id: str) -> str:
        with write(self.engine) as connection:
            return str(queue.submit_job(connection, spec(dataset=dataset_id))["id"])

    def register(self, dataset_id: str, fingerprint: str) -> None:
        manifest = DatasetManifest(name="pool", root="pool", shards=[ShardRef(key="a.tar")])
        with write(self.engine) as connection:
            known = {"id": dataset_id, "name": "pool", "state": DatasetState.READY, "manifest": stored(manifest)}
            values = known | {"fingerprint": fingerprint, "rows": 100, "created_ms": now_ms(connection)}
            connection.execute(insert(datasets).values(**values))

    def forget_dataset(self, dataset_id: str) -> None:
        with write(self.engine) as connection:
            delete_dataset(connection, dataset_id)

    def forget_job(self, job_id: str) -> None:
        with write(self.engine) as connection:
            delete_job(connection, job_id)

    def claim(self) -> Attempt | None:
        claimed = claim_if(self.engine)
        return None if claimed is None else held(claimed)

    def crash(self, attempt: Attempt) -> None:
        with write(self.engine) as connection:
            claims.attempt_ended(connection, attempt.job_id, attempt.token, "killed", max_crashes=2)

    def write_batch(self, attempt: Attempt, history_id: str, seq: int) -> tuple[str, str, bytes]:
        """Write list and score shard of a batch as a driver does before it commits; the same bytes each time."""
        prefix = job_prefix(attempt.job_id, history_id)
        data = f"list {seq} of {attempt.job_id}".encode()
        scores = f"scores {seq} of {attempt.job_id}".encode()
        name = f"{seq:012d}-{seq + 1:012d}-{digest(data)[:16]}.parquet"
        score_key = f"{prefix}/scores/{seq:012d}-0-{digest(scores)[:16]}.parquet"
        self.store.put_new(score_key, scores)
        self.store.put_new(f"{prefix}/lists/{name}", data)
        return name, score_key, data

    def spoil_batch(self, attempt: Attempt, history_id: str, seq: int) -> None:
        """Write another score shard of a batch, whose row was made anew."""
        scores = f"scores of attempt {attempt.token} at {seq}".encode()
        prefix = job_prefix(attempt.job_id, history_id)
        self.store.put_new(f"{prefix}/scores/{seq:012d}-1-{digest(scores)[:16]}.parquet", scores)

    def row_of(self, attempt: Attempt) -> dict[str, Any] | None:
        """Return the row of an attempt's job, None when it was deleted."""
        with read(self.engine) as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == attempt.job_id)).mappings().one_or_none()
        return None if row is None else dict(row)

    def publish(self, attempt: Attempt) -> bool:
        """Write and commit the next batch; False for a zombie, which leaves its files behind."""
        row = self.row_of(attempt)
        if row is None or row["next_seq"] >= row["num_batches"]:
            return False
        return self.commit(attempt, row, self.write_batch(attempt, row["history_id"], row["next_seq"]))

    def commit(self, attempt: Attempt, row: dict[str, Any], written: tuple[str, str, bytes]) -> bool:
        """Commit the next batch, whose files were written before, and write its log files."""
        seq, (name, score_key, data) = row["next_seq"], written
        key = f"{job_prefix(attempt.job_id, row['history_id'])}/lists/{name}"
        named = {"list_name": name, "list_key": key, "bytes": len(data), "sha256": digest(data)}
        try:
            record_rows(self.engine, attempt, seq)
            with write(self.engine) as connection:
                commit_segment(connection, attempt, segment_commit(row, seq, score_keys=[score_key], **named))
                files = newest_log_files(connection, attempt.job_id)
        except LeaseLost:
            return False
        for file in files:
            self.store.put_new(file.key, file.text.encode())
        return True

    def write_cache(self, attempt: Attempt, name: str) -> CacheEntry:
        """Write an index as an attempt does, before it commits it."""
        data = f"index {name} by {attempt.job_id}-{attempt.token}".encode()
        key = f"cache/index/{sha(name)}/{attempt.job_id}-{attempt.token}.parquet"
        self.store.put_new(key, data)
        fields = {"cache_key": sha(name), "kind": "index", "object_key": key, "bytes": len(data)}
        return CacheEntry.model_validate(fields | {"sha256": digest(data), "rows": 1, "quarantined": {}})

    def commit_cache(self, attempt: Attempt, entry: CacheEntry) -> CacheEntry | None:
        try:
            with write(self.engine) as connection:
                return attempts.commit_cached(connection, attempt, entry)
        except LeaseLost:
            return None

    def look_up(self, attempt: Attempt, name: str) -> CacheEntry | None:
        """Look an entry up, as a driver does before it reads the object."""
        try:
            with write(self.engine) as connection:
                found = attempts.find_cached(connection, attempt, [sha(name)]).entries
        except LeaseLost:
            return None
        return found[0] if found else None

    def end(self, attempt: Attempt) -> None:
        with write(self.engine) as connection:
            lease.finish(connection, attempt, Finish(outcome="FAILED", code="shard_failed", message="why"))

    def collect(self, *, dry_run: bool = False, later_s: float = LATER_S) -> GarbageReport:
        """Run a collection for which every file is old, and return what it removed."""
        with write(self.engine) as connection:
            run = gc_runs.begin_run(connection, dry_run=dry_run, min_age_s=0)
        assert collect_pending(self.places, "worker", clock=lambda: time.time() + later_s)
        with read(self.engine) as connection:
            ended = gc_runs.get_run(connection, run.id)
        assert ended.state is GarbageRunState.SUCCEEDED, ended.error
        return ended.report

    def stored_keys(self) -> set[str]:
        """Return the keys of the store, but for the mark that says whose it is."""
        return {file.key for page in self.store.pages() for file in page} - {MARK}

    def check_readable(self) -> set[str]:
        """Assert that every published list, score shard and cache entry is there with its digest; return the keys."""
        with read(self.engine) as connection:
            published = connection.execute(select(segments)).mappings().all()
            cached = connection.execute(select(cache)).mappings().all()
        digests = {row["list_key"]: row["sha256"] for row in published}
        digests |= {row["object_key"]: row["sha256"] for row in cached}
        for key, expected in digests.items():
            assert digest(self.store.get(key)) == expected, key
        scores = {key for row in published for key in json.loads(row["commit"])["score_keys"]}
        for key in scores:
            assert digest(self.store.get(key))[:16] in key
        return set(digests) | scores

    def history(self, job_id: str) -> str:
        return str(job(self.engine, job_id)["history_id"])

    def forget_uses(self) -> None:
        """Make the catalog look like one of before uses were noted."""
        with write(self.engine) as connection:
            connection.execute(delete(cache_uses))
