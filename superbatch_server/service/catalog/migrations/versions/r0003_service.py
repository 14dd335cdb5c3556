"""Supervisors with their heartbeats, and access tokens of limited scope."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_INDEXES = (
    ("segments_by_generation", "segments", ["job_id", "generation", "first_seq", "num_batches"]),
    ("jobs_by_created", "jobs", ["created_ms", "id"]),
    ("jobs_by_secret", "jobs", ["secret_sha256"]),
    ("jobs_to_search", "jobs", ["is_searching"]),
    ("jobs_to_log", "jobs", ["end_logged", "state"]),
    ("log_digests_by_digest", "log_digests", ["log_digest"]),
    ("checkpoints_by_state", "checkpoints", ["job_id", "state"]),
    ("checkpoints_by_generation", "checkpoints", ["job_id", "generation"]),
    ("checkpoints_by_file", "checkpoints", ["sha256"]),
    ("idempotency_by_expiry", "idempotency", ["expires_ms"]),
)


def upgrade() -> None:
    """Add tables, and the indexes that keep pages and polls short however long a catalog grows."""
    op.create_table(
        "supervisors",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("runner", sa.String(length=16), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=False),
        sa.Column("num_running", sa.Integer(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "access_tokens",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("secret_sha256"),
    )
    op.create_table(
        "cache_uses",
        sa.Column("cache_key", sa.String(length=64), nullable=False),
        sa.Column("dataset_fingerprint", sa.String(length=64), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["cache_key"], ["cache.cache_key"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("cache_key", "dataset_fingerprint", "model_digest"),
    )
    op.create_table(
        "catalog_identity",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "gc_runs",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("min_age_ms", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=True),
        sa.Column("report", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    for name, table, columns in _INDEXES:
        op.create_index(name, table, columns, unique=False)
