"""Rows that a job leaves out, published batches that were withdrawn, and running totals of the segments."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add two tables, and to jobs and segments what is known of them."""
    op.create_table(
        "exclusions",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("uids", sa.LargeBinary(), nullable=False),
        sa.Column("num_uids", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "version"),
    )
    op.create_index("exclusions_by_digest", "exclusions", ["digest"], unique=False)
    op.create_table(
        "revoked",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "seq"),
    )
    op.add_column("jobs", sa.Column("exclusions_version", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("exclusions_digest", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("is_searching", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("num_revoked", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("totals", sa.Text(), nullable=True))
    op.add_column("segments", sa.Column("searched_version", sa.Integer(), nullable=False, server_default="0"))
