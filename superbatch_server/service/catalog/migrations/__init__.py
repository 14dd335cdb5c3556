"""The catalog's schema, revision by revision; `migrate` brings a database to the newest one.

An empty database gets the tables as they are now, without Alembic, whose import would cost a first start 0.25 s; an
older one is upgraded by it. A new revision is a file in versions/ and a new HEAD; a test proves that both ways meet.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, PrimaryKeyConstraint, String, Table, inspect, select, text

from superbatch_server.service.catalog.engine import UnsuitableDatabase, read, write
from superbatch_server.service.catalog.tables import metadata

HEAD = "0003"

_version = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32)),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),  # as Alembic names it
)


def migrate(engine: Engine) -> None:
    """Bring the catalog to the newest revision, in one transaction; several processes may do so at the same time.

    Raises: UnsuitableDatabase when a newer program made it.
    """
    with read(engine) as connection:
        if revision(connection) == HEAD:
            return
    with write(engine) as connection:
        if connection.dialect.name == "postgresql":  # SQLite: the write lock is held already
            connection.execute(text("SET LOCAL statement_timeout = 0"))  # a long table takes what it takes
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(7311)"))
        found = revision(connection)
        if found is None:
            _create(connection)
        elif found not in _known_revisions():
            raise UnsuitableDatabase(
                f"the catalog must be of revision {HEAD} or older; got {found} (alembic_version), which a newer "
                "Superbatch made. Start that version again, or give this one the backup from before the upgrade."
            )
        else:
            upgrade(connection)


def revision(connection: Connection) -> str | None:
    """Return the revision of a catalog, None for an empty database."""
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.execute(select(_version.c.version_num)).scalar_one_or_none()


def upgrade(connection: Connection) -> None:
    """Run the revisions that a catalog lacks."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _known_revisions() -> set[str]:
    return {path.stem[1:].partition("_")[0] for path in (Path(__file__).parent / "versions").glob("r*_*.py")}


def _create(connection: Connection) -> None:
    metadata.create_all(connection)
    _version.create(connection)
    connection.execute(_version.insert().values(version_num=HEAD))
