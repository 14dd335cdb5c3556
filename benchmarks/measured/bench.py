"""What every benchmark begins and ends with: its mode, the machine that it ran on, and the printed figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


def bench_parser(description: str, *, quick: str = "fewer runs, under 60 s on idle cores") -> argparse.ArgumentParser:
    """Return the parser of --quick (what it leaves out: `quick`) and --tiny; the result's `mode` is full without."""
    parser = argparse.ArgumentParser(description=description)
    parser.set_defaults(mode="full")
    shorter = parser.add_mutually_exclusive_group()
    shorter.add_argument("--quick", dest="mode", action="store_const", const="quick", help=quick)
    tiny = "a toy size, in seconds: proves that it runs"
    shorter.add_argument("--tiny", dest="mode", action="store_const", const="tiny", help=tiny)
    return parser


def machine(*packages: str) -> Figures:
    """Return what a figure depends on beside the code's own sizes: commit, versions of `packages`, cores, load."""
    return {
        "commit": _commit() or "unknown",
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
    }


def print_figures(figures: Mapping[str, Any], *, one_a_line: bool = True) -> None:
    """Print the figures one a line, unless a table said them already, and then the `BENCH {json}` line."""
    all_of_them = {**figures, "load_after": round(os.getloadavg()[0], 2)}
    if one_a_line:
        width = max(map(len, all_of_them))
        for name, figure in all_of_them.items():
            print(f"{name:{width}} {figure}")
    print("BENCH " + json.dumps(all_of_them))


def _commit() -> str:
    if shutil.which("git") is None:
        return ""
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
