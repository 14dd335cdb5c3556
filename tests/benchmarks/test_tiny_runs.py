"""The tiny run of a benchmark proves only that it runs and prints its keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

KEYS = {
    "compose": ("gemm_fraction", "serve_ready_s", "commit_overhead_ms"),
    "loader": ("fraction_of_webdataset", "bytes_read_per_used"),
    "selection": (
        "speedup_over_plain",
        "gemm_fraction_sigmoid",
        "gemm_fraction_softmax",
        "gemm_fraction_bf16",
        "speedup_over_gather",
        "peak_mb_65536",
    ),
    "selection_cuda": ("cuda_ratio_sigmoid", "cuda_ratio_softmax"),
    "service": ("delivery_p99_ms", "pollers", "pages_p95_ms", "submit_p95_ms"),
    "softmax_score": (
        "marginal_over_conditional_nats_clusters",
        "marginal_over_conditional_nats_sample",
        "marginal_over_conditional_seconds",
    ),
}


def tiny_run(theme: str) -> dict[str, object]:
    command = [sys.executable, str(BENCHMARKS / f"{theme}.py"), "--tiny"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("BENCH ")
    figures: dict[str, object] = json.loads(last.removeprefix("BENCH "))
    return figures


@pytest.mark.parametrize("theme", KEYS)
def test_the_tiny_run_prints_its_keys(theme: str) -> None:
    figures = tiny_run(theme)
    for key in KEYS[theme]:
        assert isinstance(figures[key], float | int) or figures[f"{key}_reason"]
    assert figures.get("same_choice_fraction", 1.0) == 1.0  # what a speed is compared with must do the same work


def test_the_peak_of_a_process_is_more_than_its_towers() -> None:
    command = [sys.executable, "-m", "measured.peak", "256", "32", "51", "4"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=BENCHMARKS)
    figures = json.loads(ran.stdout)
    assert figures["towers_mb"] == round(4 * 256 * 32 * 4 / 1e6, 1)
    assert figures["peak_mb"] >= figures["before_mb"] > figures["towers_mb"]
