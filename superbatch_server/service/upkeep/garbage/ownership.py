"""Whose store it is: an object in it names the catalog that uses it, so that another one removes nothing there.

To a second catalog every file of the first would be garbage.
"""

from __future__ import annotations

import json
import logging

from sqlalchemy import Engine

from superbatch_server.schemas.errors import WrongState
from superbatch_server.service.catalog.engine import transact
from superbatch_server.service.catalog.identity import catalog_id
from superbatch_server.storage.store import ArtifactStore

log = logging.getLogger("superbatch.gc")

MARK = "catalog.json"
"""Key of the object that names the catalog."""

MARK_POLL_S = 3600.0


def require_own_store(engine: Engine, store: ArtifactStore) -> None:
    """Mark the store as this catalog's where it has no mark yet.

    Raises:
        WrongState: it is another catalog's.
    """
    own = json.dumps({"catalog": transact(engine, catalog_id)}).encode()
    store.put_new(MARK, own)
    found = store.get(MARK)
    if found != own:
        raise WrongState(
            f"garbage is collected by the catalog whose store it is, {own.decode()}; got a store that says "
            f"{found[:100].decode(errors='replace')!r} ({MARK} in the store). Give each catalog a store prefix of its "
            f"own; if the other catalog is gone for good, remove {MARK} from the store."
        )


def mark_store(engine: Engine, store: ArtifactStore) -> bool:
    """Mark the store before the first collection, and say in the log when it is another's; there is no more to do."""
    try:
        require_own_store(engine, store)
    except WrongState as error:
        log.warning("no garbage can be collected: %s", error)
    return False
