"""The files of towers: `.npy`, or the numbers alone; written block by block, and looked at before they are mapped.

Letters: B rows, D width, C rows of one block.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch

from superbatch.selection.errors import InvalidEmbeddings

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_NPY_DTYPE = {"<f2": torch.float16, "<f4": torch.float32, "<f8": torch.float64}
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class TowerLayout:
    """Where the rows of a tower lie in a file: num_rows rows of `width` numbers, from byte `offset` on."""

    num_rows: int
    width: int
    dtype: torch.dtype
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.dtype.itemsize

    @property
    def stop(self) -> int:
        """The byte after the last row."""
        return self.offset + self.num_rows * self.row_bytes


def write_tower(
    path: str | os.PathLike[str], blocks: Iterable[Float[Tensor, "C D"]], *, dtype: torch.dtype = torch.float16
) -> int:
    """Write a tower block by block, and return its number of rows; the file appears when all is written.

    Args:
        path: `*.npy` gets a header; any other name holds the numbers alone, and its reader must know D and the type.
        blocks: rows in order, all of one width; each is written before the next is asked for.
        dtype: what to store: float16, float32, float64, or bfloat16 where the numbers stand alone.
    Raises: InvalidEmbeddings: a type that the file cannot hold, a block that is not [C, D], no block at all.
    Cost: memory of one block.
    """
    path = Path(path)
    if dtype not in (_NPY_DTYPE.values() if path.suffix == ".npy" else _DTYPES):
        raise InvalidEmbeddings(
            f"a tower is stored in float16, float32 or float64, or without .npy in bfloat16; got {dtype} ({path}). "
            "Choose another type or name."
        )
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            num_rows = _write_blocks(file, path, blocks, dtype)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return num_rows


def _write_blocks(file: BinaryIO, path: Path, blocks: Iterable[Float[Tensor, "C D"]], dtype: torch.dtype) -> int:
    num_rows, width = 0, None
    for block_CD in blocks:
        if width is None and block_CD.ndim == 2:
            width = block_CD.shape[1]
            _write_header(file, path, num_rows=0, width=width, dtype=dtype)
        if block_CD.ndim != 2 or block_CD.shape[1] != width:
            raise InvalidEmbeddings(
                f"blocks must be [C, D] of one D; got {list(block_CD.shape)} after {num_rows} rows of width {width} "
                f"({path}). Write one tower per file."
            )
        file.write(block_CD.detach().cpu().to(dtype).contiguous().view(torch.uint8).numpy().data)
        num_rows += len(block_CD)
    if width is None:
        raise InvalidEmbeddings(f"a tower needs a block, or it has no width; got none ({path}). Write one [0, D].")
    file.seek(0)
    _write_header(file, path, num_rows=num_rows, width=width, dtype=dtype)
    return num_rows


def read_layout(
    path: Path, *, width: int | None, dtype: torch.dtype | None, rows: tuple[int, int] | None
) -> TowerLayout:
    """Return where the rows lie, having made sure that the file holds them.

    Args: as for `mapped.map_tower`.      Raises: as `mapped.map_tower`.
    """
    if not path.is_file():
        raise InvalidEmbeddings(f"a tower must be a file; got none ({path}). Write it with write_tower.")
    layout = _npy_layout(path) if path.suffix == ".npy" else _plain_layout(path, width=width, dtype=dtype)
    for name, wanted, got in (("width", width, layout.width), ("dtype", dtype, layout.dtype)):
        if wanted not in (None, got):
            raise InvalidEmbeddings(f"{name} must be as the file says, {got}; got {wanted} ({path}). Leave it out.")
    if path.stat().st_size < layout.stop:
        raise InvalidEmbeddings(
            f"a tower of {layout.num_rows} rows of {layout.row_bytes} bytes ends at byte {layout.stop}; got a file of "
            f"{path.stat().st_size} ({path}). It was cut short: write it again."
        )
    if rows is None:
        return layout
    start, stop = rows
    if not 0 <= start <= stop <= layout.num_rows:
        raise InvalidEmbeddings(
            f"rows must be within [0, {layout.num_rows}); got [{start}, {stop}) ({path}). Ask for rows that it holds."
        )
    return replace(layout, num_rows=stop - start, offset=layout.offset + start * layout.row_bytes)


def _plain_layout(path: Path, *, width: int | None, dtype: torch.dtype | None) -> TowerLayout:
    if width is None or width < 1 or dtype not in _DTYPES:
        raise InvalidEmbeddings(
            f"numbers alone need a width of at least 1 and a dtype of float16, bfloat16, float32 or float64; got "
            f"{width}, {dtype} ({path}). Give both, or write a .npy."
        )
    layout = TowerLayout(0, width, dtype, 0)
    num_rows, rest = divmod(path.stat().st_size, layout.row_bytes)
    if rest:
        raise InvalidEmbeddings(
            f"a tower of width {width} in {dtype} has rows of {layout.row_bytes} bytes; got {rest} bytes after "
            f"{num_rows} of them ({path}). Give the width and dtype that it was written with."
        )
    return replace(layout, num_rows=num_rows)


def _npy_layout(path: Path) -> TowerLayout:
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(file)
        except ValueError as error:
            raise InvalidEmbeddings(
                f"a .npy must begin with its header; got {error} ({path}). Write it again."
            ) from error
        if len(shape) != 2 or is_fortran or dtype.str not in _NPY_DTYPE:
            raise InvalidEmbeddings(
                f"a tower must be [B, D], float16, float32 or float64, little-endian, in C order; got {list(shape)}, "
                f"{dtype.str}, {'Fortran' if is_fortran else 'C'} order ({path}). Write it with write_tower."
            )
        return TowerLayout(shape[0], shape[1], _NPY_DTYPE[dtype.str], file.tell())


def _write_header(file: BinaryIO, path: Path, *, num_rows: int, width: int, dtype: torch.dtype) -> None:
    """Write the header of a .npy; numpy leaves room for a longer number of rows, so it may be written again."""
    if path.suffix == ".npy":
        descr = next(name for name, known in _NPY_DTYPE.items() if known == dtype)
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (num_rows, width)})
