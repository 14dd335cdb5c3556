"""The API process: migrates the catalog and serves the app on the socket that its parent holds.

The socket outlives this process, so a request that comes during a restart waits instead of being refused.
"""

from __future__ import annotations

import os
import socket
import sys

import uvicorn

from superbatch_server.service import leash
from superbatch_server.service.app import create_app
from superbatch_server.service.catalog.engine import create_engine
from superbatch_server.service.catalog.migrations import migrate
from superbatch_server.service.deployment import read_token
from superbatch_server.service.settings import read_settings
from superbatch_server.storage.store import open_store

_GOODBYE_S = 2


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM; the arguments are the parent's process id and the descriptor of the listening socket."""
    parent_pid, descriptor = (int(argument) for argument in arguments)
    leash.watch_parent(parent_pid)
    settings = read_settings(os.environ)
    engine = create_engine(settings.database_url.get_secret_value())
    migrate(engine)
    app = create_app(
        engine=engine, settings=settings, store=open_store(settings.store_url), token=read_token(settings.data_dir)
    )
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GOODBYE_S)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
