from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from superbatch.selection.pairs.cpu import CpuEngine
from superbatch.selection.pairs.opening import open_engine
from superbatch.selection.pairs.plain_engine import PlainEngine

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # what `import triton` meets where it is not installed
import torch
from superbatch.selection.pairs.opening import open_engine
from tests.superbatch.selection import made
from superbatch.selection import SelectionSpec, select
spec = SelectionSpec(method="joint", criterion="learnability", b=6, num_chunks=2)
assert len(select(made.candidates(20), spec).chosen_index) == 6
for name in ("cpu", "xla", "cuda"):
    print(type(open_engine(3, device=torch.device(name), compute_dtype=torch.float32)).__name__)
"""


@pytest.mark.parametrize("compute_dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_cpu_has_its_own_engine(compute_dtype: torch.dtype) -> None:
    engine = open_engine(3, device=torch.device("cpu"), compute_dtype=compute_dtype)
    assert isinstance(engine, CpuEngine)
    assert engine.compute_dtype == compute_dtype


@pytest.mark.parametrize("compute_dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_device_nobody_wrote_an_engine_for_has_the_plain_one(compute_dtype: torch.dtype) -> None:
    engine = open_engine(3, device=torch.device("xla"), compute_dtype=compute_dtype)
    assert isinstance(engine, PlainEngine)
    assert engine.compute_dtype == compute_dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_has_the_kernels_but_for_float64() -> None:
    names = [
        type(open_engine(3, device=torch.device("cuda"), compute_dtype=dtype)).__name__
        for dtype in (torch.bfloat16, torch.float32, torch.float64)
    ]
    is_hopper = torch.cuda.get_device_capability() >= (9, 0)
    assert names == ["TritonEngine" if is_hopper else "PlainEngine"] * 2 + ["PlainEngine"]


def test_without_triton_selection_works_and_every_device_has_an_engine() -> None:
    ran = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["CpuEngine", "PlainEngine", "PlainEngine"]
