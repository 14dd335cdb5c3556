"""`superbatch dashboard`: print a fresh address of the running service's dashboard; its code works once."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from superbatch_server.service.access.login_codes import new_login_code
from superbatch_server.service.deployment import SERVICE_FILE
from superbatch_server.service.settings import read_settings


def command(arguments: list[str]) -> int:
    """Print the address."""
    parser = argparse.ArgumentParser(prog="superbatch dashboard", description=__doc__)
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="data directory of `superbatch serve`")
    options = parser.parse_args(arguments)
    overrides = {} if options.data_dir is None else {"data_dir": options.data_dir}
    try:
        data_dir = read_settings(os.environ, **overrides).data_dir
        url = json.loads((data_dir / SERVICE_FILE).read_text(encoding="utf-8"))["url"]
    except (OSError, ValueError, KeyError) as error:
        print(
            f"superbatch dashboard: a running service is needed; {error}. Start one with `superbatch serve`, "
            "or name its data directory with --data-dir.",
            file=sys.stderr,
        )
        return 4
    print(f"{url}/login?code={new_login_code(data_dir)}")
    return 0
