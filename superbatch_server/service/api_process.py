"""The API process: migrates the catalog and serves the app on the socket that its parent holds.

The socket outlives this process, so a request that comes during a restart waits instead of being refused.
"""

from __future__ import annotations

import os
import socket
import sys

import uvicorn
from fastapi import FastAPI

from superbatch_server.service.app import create_app
from superbatch_server.service.catalog.engine import UnsuitableDatabase, create_engine
from superbatch_server.service.catalog.listener import listening
from superbatch_server.service.catalog.migrations import migrate
from superbatch_server.service.deployment import read_token
from superbatch_server.service.http_protocol import KEEP_ALIVE_S, MAX_HEAD_BYTES, TimedProtocol
from superbatch_server.service.runners import leash
from superbatch_server.service.settings import Settings, read_settings
from superbatch_server.service.watching.log_lines import set_up_logging
from superbatch_server.storage.store import open_store

_GOODBYE_S = 2


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM; the arguments are the parent's process id and the descriptor of the listening socket."""
    parent_pid, descriptor = (int(argument) for argument in arguments)
    leash.watch_parent(parent_pid)
    settings = read_settings(os.environ)
    token = read_token(settings.data_dir, settings.token_file)
    set_up_logging(settings, token=token)
    engine = create_engine(settings.database_url.get_secret_value())
    try:
        migrate(engine)
    except UnsuitableDatabase as error:
        print(f"superbatch serve: {error}", file=sys.stderr, flush=True)
        return 2
    app = create_app(engine=engine, settings=settings, store=open_store(settings.store_url), token=token)
    with listening(engine):
        uvicorn.Server(server_config(app, settings)).run(sockets=[socket.socket(fileno=descriptor)])
    return 0


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return how the app is served: what it logs is ours to format, and no client may hold what others need."""
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GOODBYE_S,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
