"""A catalog that a newer program made is refused in our own words, and stays as it is."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from superbatch_server.service.catalog.engine import UnsuitableDatabase, read, write
from superbatch_server.service.catalog.migrations import HEAD, migrate, revision


@pytest.mark.parametrize("newer", ["9999", "from a branch"])
def test_a_catalog_of_a_newer_program_is_refused(engine: Engine, newer: str) -> None:
    with write(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :newer"), {"newer": newer})
    with pytest.raises(UnsuitableDatabase, match=f"of revision {HEAD} or older; got {newer} .* newer Superbatch made"):
        migrate(engine)
    with read(engine) as connection:
        assert revision(connection) == newer
