"""The tiny run of benchmarks/large_super_batch.py proves that it runs, prints its keys, and that all chose the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
KEYS = ("mapped_over_in_memory", "mapped_anon_mb", "mapped_file_mb", "towers_mb", "sharded_speedup", "sent_over_chosen")


def test_the_tiny_run_prints_its_keys() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "large_super_batch.py"), "--tiny"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("BENCH ")
    figures = json.loads(last.removeprefix("BENCH "))
    assert all(isinstance(figures[key], float) for key in KEYS)
    assert figures["same_choice"] == 1.0
