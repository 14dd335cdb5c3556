"""Health checks of containers: `python -m superbatch_server.service.watching.health api | supervisor | url <URL>`.

Ends with 0 when the part of the service that runs beside it is well, with 1 and one line when it is not.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import urllib.error
import urllib.request

from superbatch_server.service.settings import Settings, read_settings

_LIMIT_S = 5.0


class Unwell(Exception):
    """What is wrong."""


def main(arguments: list[str]) -> int:
    """Run the check that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m superbatch_server.service.watching.health")
    parser.add_argument("part", choices=["api", "supervisor", "url"])
    parser.add_argument("url", nargs="?", help="an address that must answer with 200, for url")
    options = parser.parse_args(arguments)
    try:
        if options.part == "url":
            require_answer(options.url or parser.error("url needs an address"))
        elif options.part == "api":
            require_answer(f"{read_settings(os.environ).service_url}/healthz")
        else:
            require_supervisor(read_settings(os.environ), host=socket.gethostname())
    except (Unwell, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def require_answer(url: str) -> None:
    """Raise Unwell unless the address answers with 200; no proxy is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_LIMIT_S):
            pass
    except (OSError, ValueError) as error:
        said = f"status {error.code}" if isinstance(error, urllib.error.HTTPError) else str(error)
        raise Unwell(f"{url} must answer with 200; got {said}") from error


def require_supervisor(settings: Settings, *, host: str) -> None:
    """Raise Unwell unless a supervisor of this host was seen lately in the catalog."""
    from sqlalchemy.exc import SQLAlchemyError

    from superbatch_server.service.catalog.engine import create_engine, read
    from superbatch_server.service.catalog.supervisors import list_supervisors

    engine = create_engine(settings.database_url.get_secret_value(), patience_s=_LIMIT_S)
    try:
        with read(engine) as connection:
            own = [found for found in list_supervisors(connection) if found.host == host]
    except SQLAlchemyError as error:
        raise Unwell(f"the catalog must answer; got {type(error).__name__}") from error
    finally:
        engine.dispose()
    if not any(found.is_live for found in own):
        seen = f"the last one was seen {min(found.age_s for found in own):.0f} s ago" if own else "none was ever seen"
        raise Unwell(f"a supervisor of host {host} must be in the catalog; {seen}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
