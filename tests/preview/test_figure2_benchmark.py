"""The tiny run of benchmarks/figure2.py proves only that it runs, prints its keys and draws its picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


def test_the_tiny_run_prints_its_keys_and_draws(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "figure2.py"), "--tiny", "--svg", str(tmp_path / "figure.svg")],
        capture_output=True,
        text=True,
        check=True,
        timeout=150,
    )
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("BENCH ")
    figures = json.loads(last.removeprefix("BENCH "))
    for case in ("clusters_t100", "young_as_trained", "young_t100", "grown_as_trained", "grown_t100"):
        for letter, xs in (("N", (1, 16)), ("f", (0, 0.5, 0.8, 0.9))):
            for x in xs:
                key = f"sigmoid_{case}_{letter}{x}"
                assert isinstance(figures[key], float) or figures[f"{key}_reason"]
    assert figures["sigmoid_clusters_t100_f0.5"] == 1.0
    assert ElementTree.parse(tmp_path / "figure.svg").getroot().tag.endswith("svg")
