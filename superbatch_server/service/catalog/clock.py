"""The only clock of the catalog: the database's, in whole milliseconds since the epoch.

Hosts may disagree about the time; a lease is compared with one clock only.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, text

_NOW_MS = {
    # SQLite 3.40 has no unixepoch('subsec'); a julian day in fp64 resolves 0.04 ms.
    "sqlite": text("SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"),
    "postgresql": text("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"),
}


def now_ms(connection: Connection) -> int:
    """Return the database's time."""
    return int(connection.execute(_NOW_MS[connection.dialect.name]).scalar_one())


def rfc3339(at_ms: int) -> str:
    """Return a catalog time as RFC 3339 in UTC with milliseconds."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
