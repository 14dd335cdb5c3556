"""The catalog's tables (SQLAlchemy 2 Core), the same on SQLite and Postgres.

Times are milliseconds since the epoch by the *database's* clock (`clock.py`). JSON bodies are stored as the canonical
text of the schemas' models. What is visible to readers is a row here; files without a row are garbage.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData()
_Id = BigInteger().with_variant(Integer, "sqlite")

datasets = Table(
    "datasets",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(120), nullable=False),
    Column("state", String(16), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("fingerprint", String(64)),
    Column("rows", BigInteger),
    Column("error_code", String(64)),
    Column("error", Text),
    Column("created_ms", BigInteger, nullable=False),
)

dataset_shards = Table(
    "dataset_shards",
    metadata,
    Column("dataset_id", ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True),
    Column("shard_id", Integer, primary_key=True),
    Column("key", Text, nullable=False),
    Column("source", String(64), nullable=False),
    Column("sha256", String(64)),
    Column("rows", BigInteger),
    Column("start_index", BigInteger),
    Column("fingerprint", String(64)),
)

models = Table(
    "models",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(120), nullable=False),
    Column("state", String(16), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("digest", String(64)),
    Column("error_code", String(64)),
    Column("error", Text),
    Column("created_ms", BigInteger, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(120), nullable=False),
    Column("state", String(16), nullable=False),
    Column("phase", String(32)),
    Column("spec", Text, nullable=False),
    Column("dataset_id", ForeignKey("datasets.id"), nullable=False),
    Column("reference_id", ForeignKey("models.id")),
    Column("learner_id", ForeignKey("models.id")),
    Column("history_id", String(64), nullable=False),
    Column("next_seq", BigInteger, nullable=False),
    Column("num_batches", BigInteger, nullable=False),
    Column("log_digest", String(64), nullable=False),
    Column("next_walk", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("secret_sha256", String(64)),
    Column("supervisor_id", String(64)),
    Column("crashes", Integer, nullable=False),
    Column("waits_for", String(16)),
    Column("seen_trained_seq", BigInteger, nullable=False),
    Column("seen_checkpoint", String(64)),
    Column("seen_live", Boolean, nullable=False),
    Column("numerics", Text),
    Column("numerics_digest", String(64)),
    Column("pool", Text),
    Column("eligible_digest", String(64)),
    Column("counters", Text, nullable=False),
    Column("error_code", String(64)),
    Column("error", Text),
    Column("end_logged", Boolean, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("exclusions_version", Integer, nullable=False, server_default="0"),
    Column("exclusions_digest", String(64)),
    Column("is_searching", Boolean, nullable=False, server_default=false()),
    Column("num_revoked", BigInteger, nullable=False, server_default="0"),
    Column("totals", Text),
    Index("jobs_by_state", "state", "created_ms"),
    Index("jobs_by_created", "created_ms", "id"),
    Index("jobs_by_secret", "secret_sha256"),
    Index("jobs_to_search", "is_searching"),
    Index("jobs_to_log", "end_logged", "state"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("token", BigInteger, primary_key=True),
    Column("supervisor_id", String(64), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer),
    Column("log_path", Text),
    Column("started_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
    Column("outcome", String(32)),
)

schedule_rows = Table(
    "schedule_rows",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("row_attempt", Integer, primary_key=True),
    Column("body", Text, nullable=False),
)

segments = Table(
    "segments",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("first_seq", BigInteger, primary_key=True),
    Column("num_batches", Integer, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("list_name", String(128), nullable=False),
    Column("list_key", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("commit", Text, nullable=False),
    Column("log_digest_start", String(64), nullable=False),
    Column("log_digest_end", String(64), nullable=False),
    Column("committed_ms", BigInteger, nullable=False),
    Column("searched_version", Integer, nullable=False, server_default="0"),
    UniqueConstraint("job_id", "list_name"),
    Index("segments_by_generation", "job_id", "generation", "first_seq", "num_batches"),
)

exclusions = Table(
    "exclusions",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("uids", LargeBinary, nullable=False),
    Column("num_uids", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Index("exclusions_by_digest", "digest"),
)
"""What each request added: `uids` are the new ones, 16 bytes each; digest and num_uids are of the whole set then."""

revoked = Table(
    "revoked",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

log_digests = Table(
    "log_digests",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("count", BigInteger, primary_key=True),
    Column("log_digest", String(64), nullable=False),
    Index("log_digests_by_digest", "log_digest"),
)

cache = Table(
    "cache",
    metadata,
    Column("cache_key", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("object_key", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("quarantined", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

cache_uses = Table(
    "cache_uses",
    metadata,
    Column("cache_key", ForeignKey("cache.cache_key", ondelete="CASCADE"), primary_key=True),
    Column("dataset_fingerprint", String(64), primary_key=True),
    Column("model_digest", String(64), primary_key=True),
)
"""By which data sets and reference model a cache entry was used; the model is empty for an index, which needs none."""

catalog_identity = Table(
    "catalog_identity",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", String(64), nullable=False),
)
"""The name that this catalog gave itself, in one row of the number 1."""

gc_runs = Table(
    "gc_runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column("min_age_ms", BigInteger, nullable=False),
    Column("worker", String(64)),
    Column("report", Text, nullable=False),
    Column("error", Text),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
)
"""Runs of the garbage collection; `worker` is who works on it, and stops when another name stands there."""

consumers = Table(
    "consumers",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(120), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("report", Text, nullable=False),
    Column("trained_seq", BigInteger, nullable=False),
    Column("durable_seq", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("trained_seq", BigInteger, nullable=False),
    Column("files", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("generation", Integer),
    Column("reason", Text),
    Column("created_ms", BigInteger, nullable=False),
    UniqueConstraint("job_id", "ordinal"),
    Index("checkpoints_by_state", "job_id", "state"),
    Index("checkpoints_by_generation", "job_id", "generation"),
    Index("checkpoints_by_file", "sha256"),
)

events = Table(
    "events",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("message", Text, nullable=False),
    Column("fields", Text, nullable=False),
    Index("events_by_job", "job_id", "id"),
)

supervisors = Table(
    "supervisors",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("runner", String(16), nullable=False),
    Column("max_running", Integer, nullable=False),
    Column("num_running", Integer, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
)
"""Who looks at the queue; `seen_ms` moves with every heartbeat."""

access_tokens = Table(
    "access_tokens",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(120), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
)
"""Tokens beside the deployment's own, which may do everything; the catalog keeps their digests only."""

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("body_sha256", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("answer", Text, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("done", Boolean, nullable=False),
    Index("idempotency_by_expiry", "expires_ms"),
)
