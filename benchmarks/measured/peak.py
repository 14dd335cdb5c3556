"""The peak memory of one joint selection, in a process of its own: python -m measured.peak B D b N.

Prints one line of JSON: `select_s`; `peak_mb`, the largest resident set while selecting, torch, candidates and all; and
what of it there was before: `before_mb`, of which the four towers are `towers_mb`. Megabytes are 1e6 bytes.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path

from measured.made import made_candidates, towers
from superbatch.selection import SelectionSpec, select

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_BENCHMARKS = Path(__file__).parents[1]


def measure_peak(*, B: int, D: int, b: int, N: int) -> dict[str, float]:
    """Return the figures of a fresh process."""
    command = [sys.executable, "-m", "measured.peak", *map(str, (B, D, b, N))]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=_BENCHMARKS)
    figures: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Make the candidates, select once, print."""
    B, D, b, N = map(int, sys.argv[1:])
    select(made_candidates(512, 16), SelectionSpec("joint", "learnability", 64, 4))  # loads what torch loads late
    candidates = made_candidates(B, D)
    ctypes.CDLL(None).malloc_trim(0)  # gives back what making them took, or the selection would use it unseen
    before_mb = _resident_mb("VmRSS")
    _CLEAR.write_text("5")  # the peak counts from here
    start = time.perf_counter()
    select(candidates, SelectionSpec("joint", "learnability", b, N))
    figures = {
        "select_s": round(time.perf_counter() - start, 3),
        "peak_mb": _resident_mb("VmHWM"),
        "before_mb": before_mb,
        "towers_mb": round(sum(tower.nbytes for tower in towers(candidates)) / 1e6, 1),
    }
    print(json.dumps(figures))


def _resident_mb(field: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return round(int(line.split()[1]) * 1024 / 1e6, 1)


if __name__ == "__main__":
    main()
