"""Towers in files, looked at through memory mappings: super-batches larger than memory.

A selection reads its towers by blocks of rows, from the first to the last, once per pass. A mapped tower lets the
kernel bring a block in when it is read, and gives it back soon after; so what stays in memory is the selection's own
state, O(B) numbers, and a window of each file. Joint selection of N rounds makes N passes: one checks the rows and
takes the diagonal, N - 1 add the new chosen; under softmax one more compares with the probe.

Letters: B rows, D width, n rows taken at once.
"""

from __future__ import annotations

import mmap
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from superbatch.selection.candidates import DualEmbeddings
from superbatch.selection.tower_files import TowerLayout, read_layout

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_WINDOW_BYTES = 4 << 20

# A row alone brings in all that its file system keeps as one piece: up to 2 MiB (measured: 0.3 MiB, ext4).
_ROWS_TAKEN_AT_ONCE = 16


def map_embeddings(
    image: str | os.PathLike[str],
    text: str | os.PathLike[str],
    *,
    logit_scale: float,
    logit_bias: float,
    width: int | None = None,
    dtype: torch.dtype | None = None,
    rows: tuple[int, int] | None = None,
) -> DualEmbeddings:
    """Return embeddings whose towers stay in their files and are read when a selection comes to them.

    Law: the choice, and every score, has the bits of a selection from the same towers in memory; from towers in half
    precision, those of a selection from `.float()` of them. The files must stay as they are while they are mapped: a
    process that reads past the end of a file that was cut short is killed by the system.
    Args:
        image: file of the image tower, see `map_tower`.
        text: file of the text tower, of the same rows in the same order.
        logit_scale: t itself, not log t.
        logit_bias: of the sigmoid loss.
        width, dtype, rows: see `map_tower`; the same for both.
    Raises: InvalidEmbeddings, see `map_tower`.
    Cost: none but that of `map_tower`, twice.
    """
    towers = [map_tower(path, width=width, dtype=dtype, rows=rows) for path in (image, text)]
    return DualEmbeddings(towers[0], towers[1], logit_scale, logit_bias)


def map_tower(
    path: str | os.PathLike[str],
    *,
    width: int | None = None,
    dtype: torch.dtype | None = None,
    rows: tuple[int, int] | None = None,
) -> Float[Tensor, "B D"]:
    """Return the rows of a file as a tensor over a read-only mapping of it; to write to the tensor kills the process.

    Args:
        path: `*.npy`: float16, float32 or float64 [B, D], little-endian, in C order. Any other name: the numbers alone,
            little-endian, row after row.
        width: D. Needed for numbers alone; None = as the file says.
        dtype: float16, bfloat16, float32 or float64. Needed for numbers alone; None = as the file says.
        rows: half-open range of the file's rows to look at; None = all. In a sharded selection each process maps its
            own.
    Raises:
        InvalidEmbeddings: no such file; another shape, type or order; fewer rows than it says, or than asked for.
    Cost: nothing is read yet. Behind a reading by blocks at most 8 MiB stay mapped; rows at other places are taken 16
        at a time, and then given back.
    """
    path = Path(path)
    layout = read_layout(path, width=width, dtype=dtype, rows=rows)
    if layout.num_rows == 0:
        return torch.empty(0, layout.width, dtype=layout.dtype)
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapping.madvise(mmap.MADV_SEQUENTIAL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # a private copy would count as memory
        numbers = torch.frombuffer(
            mapping, dtype=layout.dtype, count=layout.num_rows * layout.width, offset=layout.offset
        )
    tower = numbers.view(layout.num_rows, layout.width).as_subclass(MappedTower)
    tower.watch(mapping, layout)
    return tower


class MappedTower(Tensor):
    """A tower over a mapping. As any tensor, but that it tells the kernel which pages it has done with.

    Blocks are taken as `tower[start:stop]`, from the first to the last, by several threads at about the same place. A
    page given back too early is read once more, so a mistake costs time and changes nothing.
    """

    # What comes out of any operation is a plain tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    _mapping: mmap.mmap
    _layout: TowerLayout
    _kept_from: int

    def watch(self, mapping: mmap.mmap, layout: TowerLayout) -> None:
        """Give pages back from now on."""
        self._mapping, self._layout, self._kept_from = mapping, layout, layout.offset

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, slice):
            self._give_back_before(index.indices(len(self))[0])
        return super().__getitem__(index)

    def index_select(self, dim: int, index: Int[Tensor, " n"]) -> Tensor:
        """Return the rows at `index`, read in the order of the file, a few at a time."""
        if dim != 0:
            return super().index_select(dim, index)
        taken_nD = torch.empty(len(index), self.shape[1], dtype=self.dtype)
        for places in torch.split(index.argsort(), _ROWS_TAKEN_AT_ONCE):
            taken_nD[places] = super().index_select(0, index[places])
            self._give_back(self._layout.offset, self._layout.stop)
        return taken_nD

    def _give_back_before(self, row: int) -> None:
        """Keep the window before this row, in a new pass nothing at all, and after it what is read next."""
        position = self._layout.offset + row * self._layout.row_bytes
        if position < self._kept_from:
            self._give_back(self._layout.offset, self._layout.stop)
            self._kept_from = self._layout.offset
        elif position - self._kept_from > 2 * _WINDOW_BYTES:
            start, self._kept_from = self._kept_from, position - _WINDOW_BYTES
            self._give_back(start, self._kept_from)

    def _give_back(self, start: int, stop: int) -> None:
        first_page = start // mmap.PAGESIZE * mmap.PAGESIZE
        self._mapping.madvise(mmap.MADV_DONTNEED, first_page, stop - first_page)
