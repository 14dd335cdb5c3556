"""A Postgres server for tests: from the installed binaries, on a socket in a folder of its own, one per session.

Each test gets a database of its own, copied from one that is migrated and has one READY data set.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from sqlalchemy import Engine, text
from sqlalchemy import create_engine as create_plain_engine
from sqlalchemy.pool import NullPool

from superbatch_server.service.catalog.engine import create_engine, write
from superbatch_server.service.catalog.migrations import migrate

_SETTINGS = ("listen_addresses=", "max_connections=100", "shared_buffers=32MB", "autovacuum=off", "wal_level=minimal")
_FORGETFUL = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_LIMIT_S = 60
_numbers = itertools.count()


def binaries() -> Path | None:
    """Return the folder of Postgres' server programs, None where they are not installed."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "pg_ctl").exists()), None)


def why_not() -> str | None:
    """Return why there can be no server here, None where there can."""
    if binaries() is None:
        return "Postgres' programs (initdb, pg_ctl) are not installed"
    if os.geteuid() == 0 and (_unprivileged() is None or shutil.which("setpriv") is None):
        return "Postgres does not run as root, and there is no user postgres or nobody, or no setpriv, to run it as"
    return None


class Server:
    """A server that is running; `durable` ones survive what they acknowledged."""

    def __init__(self, *, durable: bool = False) -> None:
        self.folder = Path(mkdtemp(prefix="sb-pg-"))
        self._data = self.folder / "data"
        if (user := _unprivileged()) is not None and os.geteuid() == 0:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._run("initdb", "-D", self._data, "-U", "superbatch", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        chosen = (*_SETTINGS, "max_wal_senders=0", f"unix_socket_directories={self.folder}")
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, _, value in map(_parted, chosen))
            file.writelines(f"{name} = '{value}'\n" for name, _, value in map(_parted, () if durable else _FORGETFUL))
        self.start()
        self._admin = create_plain_engine(
            self.url("postgres").replace("postgresql:", "postgresql+psycopg:"),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
        )

    def url(self, database: str) -> str:
        """Return the address of a database, as an operator writes it."""
        return f"postgresql://superbatch@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start it as a child that ends with this process, however that ends, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", self._data), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        stop_s = time.monotonic() + _LIMIT_S
        while self._process.poll() is None and time.monotonic() < stop_s:
            with contextlib.suppress(subprocess.CalledProcessError):
                return self._run("pg_isready", "-q", "-h", self.folder)
            time.sleep(0.02)
        raise AssertionError(f"Postgres did not start:\n{(self.folder / 'log').read_text()[-2000:]}")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it as `pg_ctl stop -m <mode>` does: `immediate` is a crash."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")
        self._process.wait(_LIMIT_S)

    def restart(self, mode: str = "immediate") -> None:
        """Stop and start it."""
        self.stop(mode)
        self.start()

    def sql(self, statement: str, **values: object) -> list[tuple[object, ...]]:
        """Run one statement as the administrator, outside of any database of a test."""
        with self._admin.connect() as connection:
            found = connection.execute(text(statement), values)
            return [tuple(row) for row in found] if found.returns_rows else []

    def create(self, name: str, *, template: str = "template1") -> str:
        """Make a database and return its address."""
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    @contextlib.contextmanager
    def database(self, *, template: str = "template1") -> Iterator[str]:
        """Yield the address of a database that is dropped at the end."""
        name = f"test_{next(_numbers)}"
        yield self.create(name, template=template)
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def remove(self) -> None:
        """Stop it and delete its files."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self, program: str, *arguments: object) -> list[str]:
        folder, user = binaries(), _unprivileged()
        assert folder is not None
        as_other = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"] if user else []
        prefix = ["setpriv", "--pdeathsig=INT", *(as_other if os.geteuid() == 0 else [])]
        return [*(prefix if shutil.which("setpriv") else []), str(folder / program), *map(str, arguments)]

    def _run(self, program: str, *arguments: object) -> None:
        with (self.folder / "programs.log").open("ab") as log:
            subprocess.run(
                self._command(program, *arguments),
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                timeout=2 * _LIMIT_S,
            )


@cache
def shared_server() -> Server:
    """Return the session's server, which forgets everything at a crash."""
    server = Server()
    atexit.register(server.remove)
    return server


@cache
def template(make: object) -> str:
    """Return the name of a migrated database that `make`, called with a connection, has filled."""
    assert callable(make)
    name = f"template_{next(_numbers)}"
    engine = create_engine(shared_server().create(name))
    migrate(engine)
    with write(engine) as connection:
        make(connection)
    engine.dispose()
    return name


@contextlib.contextmanager
def new_engine(url: str) -> Iterator[Engine]:
    """Yield the engine of a catalog and let go of it at the end."""
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _unprivileged() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def _parted(setting: str) -> tuple[str, str, str]:
    return setting.partition("=")
