"""Towers in files: the bits of a selection in memory, as many passes as stated, and memory for the state only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from superbatch.selection import (
    Candidates,
    DualEmbeddings,
    InvalidEmbeddings,
    SelectionSpec,
    map_embeddings,
    map_tower,
    select,
    write_tower,
)
from superbatch.selection.pairs.block_threads import CANDIDATE_BLOCK
from superbatch.selection.tower_files import read_layout
from tests.superbatch.selection import made

SPEC = SelectionSpec("joint", "learnability", 60, 5, seed=2)
LOSSES = ("sigmoid", "softmax")


def mapped(candidates: Candidates, folder: Path, *, dtype: torch.dtype, suffix: str = ".npy") -> Candidates:
    """The same candidates, their towers written in blocks of an odd length and mapped."""
    models: dict[str, DualEmbeddings] = {}
    for name in ("learner", "reference"):
        model: DualEmbeddings = getattr(candidates, name)
        paths = [folder / f"{name}.{tower}{suffix}" for tower in ("image", "text")]
        for path, tower in zip(paths, (model.image, model.text), strict=True):
            assert write_tower(path, torch.split(tower, 77), dtype=dtype) == len(tower)
        layout = {} if suffix == ".npy" else {"width": model.image.shape[1], "dtype": dtype}
        models[name] = map_embeddings(
            *paths,
            logit_scale=model.logit_scale,
            logit_bias=model.logit_bias,
            **layout,  # type: ignore[arg-type]
        )
    return replace(candidates, **models)


def in_memory(candidates: Candidates, *, dtype: torch.dtype) -> Candidates:
    """The same numbers as stored in `dtype`, in float32 at least."""

    def stored(tower_BD: Tensor) -> Tensor:
        return tower_BD.to(dtype).to(torch.promote_types(dtype, torch.float32))

    assert candidates.learner is not None
    assert candidates.reference is not None
    return replace(
        candidates,
        learner=candidates.learner.map_towers(stored),
        reference=candidates.reference.map_towers(stored),
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [
        (torch.float32, ".npy"),
        (torch.float16, ".npy"),
        (torch.float64, ".npy"),
        (torch.bfloat16, ".bin"),
        (torch.float16, ".raw"),
    ],
)
def test_a_mapped_selection_has_the_bits_of_one_in_memory(
    tmp_path: Path, dtype: torch.dtype, suffix: str, loss: str
) -> None:
    candidates = made.candidates(CANDIDATE_BLOCK + 300, width=192)
    spec = replace(SPEC, loss=loss, max_cosine=0.9)  # type: ignore[arg-type]
    got = select(mapped(candidates, tmp_path, dtype=dtype, suffix=suffix), spec)
    expected = select(in_memory(candidates, dtype=dtype), spec)
    for field in ("chosen_index", "round", "score", "perturbed"):
        assert getattr(got, field).tobytes() == getattr(expected, field).tobytes(), field


@pytest.mark.parametrize("suffix", [".npy", ".bin"])
def test_a_range_of_rows_is_mapped_as_it_lies_in_the_file(tmp_path: Path, suffix: str) -> None:
    tower_BD = torch.randn(5000, 33)
    write_tower(tmp_path / f"tower{suffix}", torch.split(tower_BD, 1024), dtype=torch.float32)
    layout: dict[str, Any] = {"width": 33, "dtype": torch.float32}
    for start, stop in ((0, 5000), (0, 1), (17, 4999), (4999, 5000), (40, 40)):
        rows = map_tower(tmp_path / f"tower{suffix}", rows=(start, stop), **layout)
        assert torch.equal(rows, tower_BD[start:stop])
        order = torch.randperm(stop - start)
        assert torch.equal(rows.index_select(0, order), tower_BD[start:stop][order])


def test_rows_stay_right_while_pages_are_given_back(tmp_path: Path) -> None:
    """Many windows long, read block by block, twice, then from the end, then by single rows."""
    tower_BD = torch.arange(40_000, dtype=torch.float32)[:, None].expand(-1, 256).contiguous()
    write_tower(tmp_path / "tower.npy", [tower_BD], dtype=torch.float32)
    rows = map_tower(tmp_path / "tower.npy")
    starts = [*range(0, 40_000, 1000)]
    for start in (*starts, *starts, *reversed(starts)):
        assert torch.equal(rows[start : start + 1000, :][:, 3], tower_BD[start : start + 1000, 3])
        assert torch.equal(rows[start : start + 1000], tower_BD[start : start + 1000])
    index = torch.randint(40_000, (3000,))
    assert torch.equal(rows.index_select(0, index), tower_BD[index])
    assert torch.equal(rows.index_select(1, torch.tensor([5])), tower_BD[:, 5:6])


# How often the towers are read.


class Watched(Tensor):
    """A tower that writes down what is read of it: (first row, one after the last) of each block, or the name of
    what else was done."""

    reads: list[tuple[int, int] | str]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        tower, name = args[0], func.__name__
        if name == "__getitem__" and isinstance(args[1], slice):
            start, stop, _ = args[1].indices(len(result) + (args[1].start or 0))
            tower.reads.append((start, stop))
        elif name not in ("__get__", "__len__", "dim", "is_floating_point", "numel", "index_select"):
            tower.reads.append(name)
        return result


def watched(candidates: Candidates) -> tuple[Candidates, list[Watched]]:
    towers: list[Watched] = []

    def watch(tower_BD: Tensor) -> Tensor:
        towers.append(tower_BD.as_subclass(Watched))
        towers[-1].reads = []
        return towers[-1]

    assert candidates.learner is not None
    assert candidates.reference is not None
    learner, reference = candidates.learner.map_towers(watch), candidates.reference.map_towers(watch)
    return replace(candidates, learner=learner, reference=reference), towers


@pytest.mark.parametrize(
    ("spec", "num_passes"),
    [
        (SPEC, 5),
        (replace(SPEC, num_chunks=1), 1),
        (replace(SPEC, method="independent"), 1),
        (replace(SPEC, method="uniform"), 0),
        (replace(SPEC, loss="softmax"), 6),
        (replace(SPEC, loss="softmax", first_round="diagonal"), 5),
        (replace(SPEC, loss="softmax", method="independent"), 2),
    ],
)
def test_every_tower_is_read_from_end_to_end_once_per_pass_and_never_whole(
    spec: SelectionSpec, num_passes: int
) -> None:
    candidates, towers = watched(made.candidates(3 * CANDIDATE_BLOCK + 17, dtype=torch.float32))
    select(candidates, spec)
    B = len(candidates)
    for tower in towers:
        blocks = [read for read in tower.reads if isinstance(read, tuple)]
        assert tower.reads == blocks, "not read by blocks"
        assert all(stop - start <= 4096 for start, stop in blocks)
        stops = [stop for _, stop in blocks]
        assert [start for start, _ in blocks] == [stop % B for stop in [0, *stops][:-1]]
        assert stops.count(B) == num_passes


# How much memory.

LIMITED = """
import json, resource, sys, threading, time
import torch
from superbatch.selection import Candidates, SelectionSpec, map_embeddings, select
import numpy as np

folder, B, b, headroom_mb, num_threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), 2
torch.set_num_threads(num_threads)
MB = 1 << 20

def status(*names):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) / 1024 for name in names]

def models():
    return [map_embeddings(f"{folder}/{m}.image.npy", f"{folder}/{m}.text.npy", logit_scale=60.0, logit_bias=-10.0)
            for m in ("learner", "reference")]

rng = np.random.default_rng(0)
learner, reference = models()
spec = SelectionSpec("joint", "learnability", b, 4)
few = [model.take(np.arange(2000)) for model in (learner, reference)]
uid = rng.integers(0, 256, (B, 16), dtype=np.uint8)
select(Candidates(uid[:2000], np.arange(2000), *few), SelectionSpec("joint", "learnability", 200, 4))  # libraries load
candidates = Candidates(uid, np.arange(B), learner, reference)
anon_mb, file_mb, data_mb = status("RssAnon", "RssFile", "VmData")
resource.setrlimit(resource.RLIMIT_DATA, (int((data_mb + headroom_mb) * MB), resource.RLIM_INFINITY))
peak, is_done = [0.0, 0.0], threading.Event()

def watch():
    while not is_done.wait(0.002):
        peak[:] = map(max, peak, status("RssAnon", "RssFile"))

watcher = threading.Thread(target=watch)
watcher.start()
began = time.monotonic()
chosen = select(candidates, spec).chosen_index
seconds = time.monotonic() - began
is_done.set()
watcher.join()
try:
    copies = [model.map_towers(lambda tower: torch.empty(tower.shape).copy_(tower)) for model in models()]
    fits = True
except (MemoryError, RuntimeError):
    fits = False
print(json.dumps({"anon_mb": peak[0] - anon_mb, "file_mb": peak[1] - file_mb, "copies_fit": fits, "seconds": seconds,
                  "chosen": chosen.tolist()}))
"""


def write_random_model(folder: Path, name: str, num_rows: int, width: int, dtype: torch.dtype) -> None:
    few_CD = torch.nn.functional.normalize(
        torch.randn(4096, width, generator=torch.Generator().manual_seed(len(name))), dim=1
    )

    def rows() -> Iterator[Tensor]:
        for start in range(0, num_rows, 4096):
            yield few_CD.roll(start // 4096, dims=1)[: num_rows - start]

    for tower in ("image", "text"):
        write_tower(folder / f"{name}.{tower}.npy", rows(), dtype=dtype)


def select_under_a_limit(folder: Path, *, num_rows: int, b: int, headroom_mb: int) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder), str(num_rows), str(b), str(headroom_mb)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert ran.returncode == 0, ran.stderr
    figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return figures


ON_LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc and limits private memory as Linux does"
)


@ON_LINUX
def test_towers_larger_than_the_memory_limit_are_selected_from(tmp_path: Path) -> None:
    """128 MiB of towers with 48 MiB of private memory allowed; a copy of them is refused by the system."""
    assert_selects_under_a_limit(tmp_path, num_rows=32_768, dtype=torch.float32, b=512, headroom_mb=48)


@ON_LINUX
@pytest.mark.long
def test_a_large_super_batch_in_half_precision_is_selected_from(tmp_path: Path) -> None:
    """512 MiB of towers, each of them twice as large in the type of the products, with 128 MiB of private memory."""
    assert_selects_under_a_limit(tmp_path, num_rows=262_144, dtype=torch.float16, b=2048, headroom_mb=128)


def assert_selects_under_a_limit(folder: Path, *, num_rows: int, dtype: torch.dtype, b: int, headroom_mb: int) -> None:
    for name in ("learner", "reference"):
        write_random_model(folder, name, num_rows, 256, dtype)
    figures = select_under_a_limit(folder, num_rows=num_rows, b=b, headroom_mb=headroom_mb)
    print({name: figure for name, figure in figures.items() if name != "chosen"})
    assert not figures["copies_fit"]
    assert figures["anon_mb"] < headroom_mb
    # Of each tower two windows of 4 MiB and a block of 4, and of one tower 16 rows, each with 2 MiB around it.
    assert figures["file_mb"] < 4 * 12 + 32
    models = [
        DualEmbeddings(*(torch.from_numpy(np.load(folder / f"{n}.{t}.npy")) for t in ("image", "text")), 60.0, -10.0)
        for n in ("learner", "reference")
    ]
    uid = np.random.default_rng(0).integers(0, 256, (num_rows, 16), dtype=np.uint8)
    expected = select(Candidates(uid, np.arange(num_rows), *models), SelectionSpec("joint", "learnability", b, 4))
    assert figures["chosen"] == expected.chosen_index.tolist()


# Refusals.


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_files_that_hold_no_tower_are_refused_with_their_path(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.npy", np.zeros((6, 4), np.float16))
    plain = write_bytes(tmp_path / "plain.bin", bytes(48))
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "none.npy", {}, "a tower must be a file; got none"),
        (tmp_path, {}, "a tower must be a file; got none"),
        (saved(tmp_path / "one.npy", np.zeros(5, np.float32)), {}, r"must be \[B, D\].*got \[5\], <f4"),
        (saved(tmp_path / "int.npy", np.zeros((5, 2), np.int32)), {}, r"got \[5, 2\], <i4"),
        (saved(tmp_path / "big.npy", np.zeros((5, 2), ">f4")), {}, r"got \[5, 2\], >f4"),
        (saved(tmp_path / "fortran.npy", np.zeros((5, 2), np.float32, order="F")), {}, "Fortran order"),
        (write_bytes(tmp_path / "text.npy", b"not an array"), {}, "must begin with its header"),
        (write_bytes(tmp_path / "short.npy", good.read_bytes()[:-1]), {}, r"ends at byte 176; got a file of 175"),
        (good, {"width": 5}, "width must be as the file says, 4; got 5"),
        (good, {"dtype": torch.float32}, "dtype must be as the file says, torch.float16; got torch.float32"),
        (good, {"rows": (2, 7)}, r"rows must be within \[0, 6\); got \[2, 7\)"),
        (good, {"rows": (4, 2)}, r"rows must be within"),
        (good, {"rows": (-1, 2)}, r"rows must be within"),
        (plain, {}, "numbers alone need a width of at least 1 and a dtype"),
        (plain, {"width": 4}, "need a width of at least 1 and a dtype.*got 4, None"),
        (plain, {"width": 0, "dtype": torch.float16}, "got 0, torch.float16"),
        (plain, {"width": 4, "dtype": torch.int16}, "got 4, torch.int16"),
        (plain, {"width": 5, "dtype": torch.float16}, "rows of 10 bytes; got 8 bytes after 4 of them"),
    ]
    for path, arguments, message in cases:
        with pytest.raises(InvalidEmbeddings, match=message) as caught:
            map_tower(path, **arguments)
        assert str(path) in str(caught.value)


def test_a_tower_of_no_rows_can_be_written_and_mapped(tmp_path: Path) -> None:
    for name in ("empty.npy", "empty.bin"):
        assert write_tower(tmp_path / name, [torch.empty(0, 7)], dtype=torch.float16) == 0
        assert map_tower(tmp_path / name, width=7, dtype=torch.float16).shape == (0, 7)


# Writing.


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_numpy_reads_what_was_written(tmp_path: Path, dtype: torch.dtype) -> None:
    tower_BD = torch.randn(1000, 12, dtype=torch.float64)
    assert write_tower(tmp_path / "tower.npy", torch.split(tower_BD, 300), dtype=dtype) == 1000
    np.testing.assert_array_equal(np.load(tmp_path / "tower.npy"), tower_BD.to(dtype).numpy())


def test_the_header_has_room_for_any_number_of_rows(tmp_path: Path) -> None:
    """It is written before the rows are counted, and again when they are."""
    path = tmp_path / "tower.npy"
    write_tower(path, [torch.zeros(1, 512)] * 12_345, dtype=torch.float16)
    assert np.load(path).shape == (12_345, 512)
    assert read_layout(path, width=None, dtype=None, rows=None).offset % 64 == 0


@pytest.mark.parametrize(
    ("name", "blocks", "dtype", "message"),
    [
        ("tower.npy", [torch.zeros(2, 3)], torch.bfloat16, r"got torch.bfloat16"),
        ("tower.bin", [torch.zeros(2, 3)], torch.int8, r"got torch.int8"),
        ("tower.npy", [torch.zeros(2, 3), torch.zeros(2, 4)], torch.float16, r"got \[2, 4\] after 2 rows of width 3"),
        ("tower.npy", [torch.zeros(3)], torch.float16, r"got \[3\] after 0 rows"),
        ("tower.npy", [], torch.float16, "a tower needs a block"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(
    tmp_path: Path, name: str, blocks: list[Tensor], dtype: torch.dtype, message: str
) -> None:
    with pytest.raises(InvalidEmbeddings, match=message):
        write_tower(tmp_path / name, blocks, dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_a_tower_appears_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "tower.npy"
    path.write_bytes(b"older")

    def blocks() -> Iterator[Tensor]:
        for _ in range(3):
            assert path.read_bytes() == b"older"
            yield torch.ones(2, 3)

    write_tower(path, blocks())
    assert np.load(path).shape == (6, 3)
