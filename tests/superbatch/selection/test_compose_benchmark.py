"""The tiny run of benchmarks/compose.py proves only that it runs and prints its keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_tiny_run_prints_its_keys() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "compose.py"), "--tiny"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("BENCH ")
    figures = json.loads(last.removeprefix("BENCH "))
    for key in ("gemm_fraction", "serve_ready_s", "commit_overhead_ms"):
        assert isinstance(figures[key], float) or figures[f"{key}_reason"]
