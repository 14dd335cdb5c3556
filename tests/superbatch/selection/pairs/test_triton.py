"""The same tests on a GPU, where there is one, and in Triton's interpreter on the CPU, where there is none."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from superbatch.selection import Candidates, Selection, SelectionSpec, select
from superbatch.selection.dispatch import METHODS, opened_problem
from superbatch.selection.methods.peers import OneProcess
from superbatch.selection.pairs.engine import How, PairReduction
from tests.superbatch.selection import made
from tests.superbatch.selection.pairs import reductions

pytest.importorskip("triton", reason="Triton is made for Linux only")
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"  # see tests/conftest.py
if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("there is a GPU, but this torch cannot use it: set TRITON_INTERPRET=1", allow_module_level=True)

from superbatch.selection.pairs.triton_engine import (  # noqa: E402
    ENOUGH_PROGRAMS,
    MOST_SPLITS,
    TILINGS,
    Tiling,
    TritonEngine,
    laid_out,
    split_tiles,
)

# The interpreter takes 0.1 ms per entry of a tile of softplus, so most tests there run on the smallest tiles there are.
SMALLEST = Tiling(rows=16, columns=16, width=16, num_warps=4, num_stages=2)
TESTED = [SMALLEST] if DEVICE == "cpu" else [SMALLEST, None]

HALF = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def fresh_memory_holds_nan() -> Iterator[None]:
    """What a kernel does not write must not look right by chance."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def engine(num_rows: int, dtype: torch.dtype = torch.float32, *, tiling: Tiling | None = SMALLEST) -> TritonEngine:
    return TritonEngine(num_rows, compute_dtype=dtype, tiling=tiling)


def reduced(
    asked: PairReduction, dtype: torch.dtype = torch.float32, *, tiling: Tiling | None = SMALLEST
) -> torch.Tensor:
    with engine(len(asked.left), dtype, tiling=tiling) as opened:
        return opened.reduce([asked])[0]


@pytest.mark.parametrize("how", reductions.HOWS)
@pytest.mark.parametrize("shape", reductions.SHAPES)
@pytest.mark.parametrize("tiling", TESTED)
def test_every_row_is_within_the_error_budget_of_float32(
    how: How, shape: tuple[int, int, int], tiling: Tiling | None
) -> None:
    asked = reductions.request(*shape, how=how, device=DEVICE)
    reductions.assert_within(reduced(asked, tiling=tiling), asked, factors=torch.float32)


@pytest.mark.parametrize("how", reductions.HOWS)
@pytest.mark.parametrize("logits", reductions.LOGITS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("tiling", TESTED)
def test_every_scale_is_within_the_error_budget(
    how: How, logits: tuple[float, float], dtype: torch.dtype, tiling: Tiling | None
) -> None:
    asked = reductions.request(18, 17, 40, how=how, logits=logits, dtypes=(dtype, dtype), device=DEVICE)
    reductions.assert_within(reduced(asked, tiling=tiling), asked, factors=dtype)


@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        ("softplus_sum", torch.bfloat16),
        ("log_sum_exp", torch.bfloat16),
        ("log_sum_exp", torch.float32),
        ("maximum", torch.float32),
    ],
)
def test_the_tiles_that_are_used_give_the_same(how: How, dtype: torch.dtype) -> None:
    rows = TILINGS[dtype].rows + 1 if how != "softplus_sum" or DEVICE == "cuda" else 3
    asked = reductions.request(rows, 70, 40, how=how, dtypes=(dtype, dtype), device=DEVICE)
    reductions.assert_within(reduced(asked, dtype, tiling=None), asked, factors=dtype)


@pytest.mark.parametrize("how", reductions.HOWS)
@pytest.mark.parametrize("given", [torch.float32, torch.float16, torch.float64])
def test_other_types_are_rounded_to_bfloat16_once(how: How, given: torch.dtype) -> None:
    asked = reductions.request(17, 5, 40, how=how, dtypes=(given, torch.float32), device=DEVICE)
    got = reduced(asked, torch.bfloat16)
    reductions.assert_within(got, asked, factors=torch.bfloat16)
    # And what that rounding costs: every logit is within t * 2^-8 of the unrounded one, usually 1 / sqrt(D) of that.
    unrounded_B = reductions.truth(asked, factors=torch.float64)
    most = asked.scale * reductions.FACTOR * (len(asked.right) if how == "softplus_sum" else 1)
    assert np.abs(got.numpy(force=True) - unrounded_B).max() < most


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
def test_towers_of_one_16_bit_type_are_multiplied_as_they_are(dtype: torch.dtype, compute_dtype: torch.dtype) -> None:
    asked = reductions.request(17, 5, 40, how="log_sum_exp", dtypes=(dtype, dtype), device=DEVICE)
    reductions.assert_within(reduced(asked, compute_dtype), asked, factors=dtype)


@pytest.mark.parametrize("left_dtype", [torch.float32, torch.bfloat16])
def test_exact_products_are_not_rounded(left_dtype: torch.dtype) -> None:
    dtypes = (left_dtype, torch.float32)
    asked = reductions.request(17, 5, 40, how="maximum", logits=(1.0, 0.0), dtypes=dtypes, exact=True, device=DEVICE)
    reductions.assert_within(reduced(asked, torch.bfloat16), asked, factors=torch.float32)


@pytest.mark.parametrize("how", reductions.HOWS)
def test_a_pair_with_itself_is_left_out(how: How) -> None:
    own = [16, -1, 0, 3, 3, *[-1] * 14, 17]
    asked = reductions.request(18, 20, 8, how=how, own=own, device=DEVICE)
    reductions.assert_within(reduced(asked), asked, factors=torch.float32)


@pytest.mark.parametrize("how", reductions.HOWS)
def test_a_row_with_no_pair_left_has_the_value_of_an_empty_reduction(how: How) -> None:
    asked = reductions.request(4, 20, 8, how=how, own=[2] * 20, device=DEVICE)
    got = reduced(asked)
    assert got[2] == (0.0 if how == "softplus_sum" else -torch.inf)
    reductions.assert_within(got, asked, factors=torch.float32)


@pytest.mark.parametrize("how", reductions.HOWS)
@pytest.mark.parametrize(("B", "n"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_reduce_starts_no_program(how: How, B: int, n: int) -> None:
    asked = PairReduction(torch.ones(B, 4, device=DEVICE), torch.ones(n, 4, device=DEVICE), 1.0, 0.0, how)
    assert reduced(asked).tolist() == [0.0 if how == "softplus_sum" else -torch.inf] * B


def test_equal_logits_of_zero_do_not_overflow_their_group() -> None:
    # Every factor is then 2, the most there is: 64 of them fit into float32, and 128 would not.
    tiling = Tiling(rows=16, columns=256, width=16, num_warps=4, num_stages=1)
    asked = PairReduction(
        torch.zeros(1, 16, device=DEVICE), torch.zeros(256, 16, device=DEVICE), 1.0, 0.0, "softplus_sum"
    )
    torch.testing.assert_close(
        reduced(asked, tiling=tiling).cpu(), torch.tensor([256 * np.log(2.0)]), rtol=1e-6, atol=0
    )


def test_young_models_keep_the_digits_of_small_losses() -> None:
    # e^-16 is 1e-7, at the rounding of 1 in float32: a plain product of (1 + e^L) would lose most of it.
    asked = PairReduction(
        torch.zeros(3, 16, device=DEVICE), torch.zeros(40, 16, device=DEVICE), 1.0, -16.0, "softplus_sum"
    )
    expected = torch.full((3,), 40 * float(np.log1p(np.exp(-16.0))), dtype=torch.float64)
    torch.testing.assert_close(reduced(asked).cpu(), expected, rtol=2e-6, atol=0)


def test_equal_input_gives_equal_bits() -> None:
    asked = reductions.request(40, 50, 40, how="softplus_sum", device=DEVICE)
    assert torch.equal(reduced(asked), reduced(asked))


def test_several_requests_are_answered_in_order() -> None:
    asked = [
        reductions.request(18, n, 8, how=how, device=DEVICE) for n, how in zip((3, 20, 5), reductions.HOWS, strict=True)
    ]
    for request, got in zip(asked, engine(18).reduce(asked), strict=True):
        reductions.assert_within(got, request, factors=torch.float32)


def test_rows_that_are_not_laid_out_as_the_copies_need_are_copied() -> None:
    whole = reductions.request(18, 20, 24, how="maximum", device=DEVICE)
    for left, right in (
        (whole.left[:, 1:], whole.right[:, 1:]),  # odd width
        (whole.left.T.contiguous().T, whole.right[:, ::1]),  # columns are contiguous, rows are not
        (whole.left[1::2], whole.right[3:]),
        (torch.ones(18 * 16 + 1, device=DEVICE)[1:].view(18, 16), whole.right[:, :16]),  # starts off 16 bytes
    ):
        asked = PairReduction(left, right, 100.0, -12.0, "maximum")
        reductions.assert_within(reduced(asked), asked, factors=torch.float32)


def test_a_tower_is_converted_once_and_kept_no_longer_than_its_owner() -> None:
    opened = engine(17, torch.bfloat16)
    left, right = torch.ones(17, 16, device=DEVICE), torch.ones(3, 16, device=DEVICE)
    opened.reduce([PairReduction(left, right, 1.0, 0.0, "maximum")] * 2)
    (kept,) = opened._laid_out.values()
    assert {dtype: made.shape for dtype, made in kept.items()} == {torch.bfloat16: (17, 16)}
    converted, owned = weakref.ref(kept.pop(torch.bfloat16)), weakref.ref(left)
    del left, kept
    gc.collect()
    assert owned() is None
    assert converted() is None


def test_a_tower_asked_for_in_two_types_is_kept_in_both() -> None:
    rounded = reductions.request(17, 5, 40, how="maximum", logits=(1.0, 0.0), device=DEVICE)
    exact = dataclasses.replace(rounded, exact=True)
    got_rounded, got_exact = engine(17, torch.bfloat16).reduce([rounded, exact])
    reductions.assert_within(got_rounded, rounded, factors=torch.bfloat16)
    reductions.assert_within(got_exact, exact, factors=torch.float32)


def test_a_tower_that_is_laid_out_already_is_read_in_place_and_not_kept() -> None:
    tower = torch.ones(5, 16, dtype=torch.bfloat16, device=DEVICE)
    assert laid_out(tower, torch.bfloat16) is tower
    opened, owned = engine(5, torch.bfloat16), weakref.ref(tower)
    opened.reduce([PairReduction(tower, tower, 1.0, 0.0, "maximum")])
    del tower
    gc.collect()
    assert owned() is None


@pytest.mark.parametrize(
    ("B", "n", "expected"),
    [
        (163_840, 2048, (2, 8)),  # the target: 1,280 blocks of rows by 8
        (163_840, 32_768, (32, 8)),
        (163_840, 2049, (2, 9)),
        (2_000_000, 2048, (16, 1)),
        (2048, 26, (1, 1)),
        (2048, 2048, (1, 16)),
        (128, 32_768, (16, 16)),
        (128, 2176, (2, 9)),
        (1, 1, (1, 1)),
    ],
)
def test_splits_fill_the_hardware_by_shape_alone(B: int, n: int, expected: tuple[int, int]) -> None:
    assert split_tiles(B, n, TILINGS[torch.bfloat16]) == expected


@pytest.mark.parametrize("B", [1, 129, 5000, 163_840])
@pytest.mark.parametrize("n", [1, 128, 129, 3000, 70_000])
def test_every_split_has_a_tile_and_every_tile_a_split(B: int, n: int) -> None:
    tiling = TILINGS[torch.bfloat16]
    tiles_per_program, splits = split_tiles(B, n, tiling)
    num_tiles = -(-n // tiling.columns)
    assert (splits - 1) * tiles_per_program < num_tiles <= splits * tiles_per_program
    assert splits <= MOST_SPLITS
    is_enough = -(-B // tiling.rows) * splits >= ENOUGH_PROGRAMS
    assert is_enough or tiles_per_program == 1 or -(-num_tiles // (tiles_per_program // 2)) > MOST_SPLITS


def selected(candidates: Candidates, spec: SelectionSpec) -> Selection:
    """The selection with the kernels: by `select` on a GPU; in the interpreter with the engine put in its place."""
    if DEVICE == "cuda":
        models = [getattr(candidates, name).map_towers(lambda tower: tower.cuda()) for name in ("learner", "reference")]
        return select(dataclasses.replace(candidates, learner=models[0], reference=models[1]), spec)
    with opened_problem(candidates, spec, noise=None, peers=OneProcess()) as problem:
        put = engine(len(candidates), problem.engine.compute_dtype)
        return METHODS[spec.method](dataclasses.replace(problem, engine=put))


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("max_cosine", [None, 0.9])
def test_a_whole_selection_is_the_cpu_engines(loss: str, max_cosine: float | None) -> None:
    candidates = made.candidates(60, dtype=torch.float32)
    spec = SelectionSpec("joint", "learnability", b=17, num_chunks=4, seed=3, loss=loss, max_cosine=max_cosine)
    expected, got = select(candidates, spec), selected(candidates, spec)
    np.testing.assert_array_equal(got.chosen_index, expected.chosen_index)
    np.testing.assert_allclose(got.score, expected.score, rtol=0, atol=1e-3)  # t = 60 times 40 sums of 2^-24 each


COMPILED_FOR_HOPPER = """
import subprocess, sys
from pathlib import Path
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from superbatch.selection.pairs.triton_engine import TILINGS
from superbatch.selection.pairs.triton_kernels import reduce_pairs

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
counts = ("num_rows", "num_columns", "width", "tiles_per_program", "num_splits")
for dtype, name, hows in (
    (torch.bfloat16, "bf16", ("softplus_sum", "log_sum_exp", "maximum")),
    (torch.float32, "fp32", ("softplus_sum",)),
):
    for how in hows:
        tiling = TILINGS[dtype]
        descriptors = {
            side: f"tensordesc<{name}[{rows},{tiling.width}]>"
            for side, rows in (("left", tiling.rows), ("right", tiling.columns))
        }
        types = {"own": "*i64", "partial": "*fp64", "scale": "fp32", "bias": "fp32", **dict.fromkeys(counts, "i32")}
        fixed = dict(how=how, has_own=how == "log_sum_exp", is_interpreted=False)
        fixed |= dict(R=tiling.rows, K=tiling.columns, W=tiling.width)
        given = {**descriptors, **types, **dict.fromkeys(fixed, "constexpr")}
        kernel = triton.compile(
            ASTSource(reduce_pairs, {name: given[name] for name in reduce_pairs.arg_names}, constexprs=fixed),
            target=GPUTarget("cuda", 90, 32),
            options=dict(num_warps=tiling.num_warps, num_stages=tiling.num_stages),
        )
        Path("cubin").write_bytes(kernel.asm["cubin"])
        usage = subprocess.run([CUOBJDUMP, "-res-usage", "cubin"], capture_output=True, text=True, check=True).stdout
        used = dict(item.split(":") for item in usage.split() if item.startswith(("REG:", "STACK:")))
        before_loop = kernel.asm["ttgir"].split("scf.for")[0].count("async_tma_copy_global_to_local")
        in_flight = kernel.asm["ptx"].count("wgmma.wait_group.sync.aligned 1")
        print(name, how, kernel.metadata.shared, used["REG"], used["STACK"], before_loop, in_flight)
"""


def test_compiled_for_hopper_nothing_spills_two_programs_fit_and_copies_run_ahead(tmp_path: Path) -> None:
    # Triton's compiler needs no GPU. It does not run the kernel; this keeps what the block sizes were chosen for.
    ran = subprocess.run(
        [sys.executable, "-c", COMPILED_FOR_HOPPER],
        cwd=tmp_path,
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert [line[:2] for line in lines] == [*(["bf16", how] for how in reductions.HOWS), ["fp32", "softplus_sum"]]
    for name, how, *figures in lines:
        shared_bytes, registers, stack_bytes, copies_before_loop, products_in_flight = map(int, figures)
        assert stack_bytes == 0, f"{name} {how} spills"
        assert copies_before_loop == 4, f"{name} {how}: two steps of both towers should be under way before the loop"
        if name == "bf16":
            assert 2 * (shared_bytes + 1024) <= 227 * 1024, f"{how}: shared memory of two programs"
            assert 2 * 128 * registers <= 65_536, f"{how}: registers of two programs of 128 threads"
            assert products_in_flight > 0, f"{how}: a product should be in flight while the next step is prepared"
