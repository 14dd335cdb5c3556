"""The inline example on a small pool: it runs, states what it cost, and repeats itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.trainers import inline
from superbatch.inline import ReferenceCache
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.flops import forward_flops_per_example
from tests.encoders.made import a_pair
from tests.superbatch.formats.sample_batches import a_tar

STEPS, BATCH, F = 3, 8, 0.75
SUPER_BATCH = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, rows in (("clean", range(0, 24)), ("pool", range(24, 70)), ("test", range(70, 86))):
        files = []
        for row in rows:
            picture, caption = a_pair(row)
            picture = picture[:40] if row == 30 else picture
            files += [(f"{row:03d}.png", picture), (f"{row:03d}.txt", caption)]
        (folder / f"{split}-made-000.tar").write_bytes(a_tar(files))
    return folder


def run(data: Path, out: Path) -> dict[str, object]:
    sizes = ["--steps", str(STEPS), "--batch", str(BATCH), "--filter-ratio", str(F), "--reference-steps", "2"]
    inline.main(["--data", str(data), "--out", str(out), *sizes])
    found: dict[str, object] = json.loads((out / "metrics.json").read_text())
    return found


def test_the_example_trains_on_what_it_selects_and_states_the_cost(data: Path, tmp_path: Path) -> None:
    found = run(data, tmp_path / "run")
    forward = forward_flops_per_example(TinyConfig())
    assert found["pool_rows"] == 45
    assert found["rows_left_out"] == 1
    assert found["training_flops"] == 3 * forward * BATCH * STEPS
    assert found["scoring_flops"] == forward * SUPER_BATCH * STEPS
    # f = 0.75: R = 4, (R + 3) / 3
    assert found["cost_of_a_step_in_uniform_steps"] == pytest.approx(7 / 3)
    assert len(ReferenceCache.open(tmp_path / "run" / "reference-cache")) == 45
    again = run(data, tmp_path / "again")
    assert again["losses"] == found["losses"]
    assert len(set(found["losses"])) == STEPS  # type: ignore[call-overload]
