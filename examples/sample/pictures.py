"""Which rendered pictures are blank, twins or near-twins.

Legend: N pictures, C = 768 cells of a thumbnail (16 x 16 x RGB).
"""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

THUMBNAIL_SIDE_PX = 16
NEAR_TWIN_RMS = 0.06
"""Two pictures nearer than this (root mean square over all cells, 1.0 = black against white) look the same."""

_BLOCK_PICTURES = 1024
_CELL_MAX = 4 * 255


def pixels_of(png: bytes) -> npt.NDArray[np.uint8]:
    """Return the picture as height x width x RGB."""
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def is_blank(pixels: npt.NDArray[np.uint8]) -> bool:
    """Return whether every pixel has the same colour."""
    return bool((pixels == pixels[0, 0]).all())


def thumbnail(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the 768 sums over 2 x 2 pixels and per colour of a 32 x 32 picture: whole numbers, 0 to 1020."""
    side = THUMBNAIL_SIDE_PX
    cells = pixels.reshape(side, 2, side, 2, 3)
    return np.sum(cells, axis=(1, 3), dtype=np.float64).reshape(-1)


def near_pairs(thumbnail_NC: npt.NDArray[np.float64], *, rms: float = NEAR_TWIN_RMS) -> list[tuple[int, int]]:
    """Return all (i, j), i < j, whose thumbnails differ by less than `rms`.

    Sums of products of whole numbers below 2^53 are exact in fp64, so the answer is the same on every machine.
    Cost: N x N x 768 multiply-adds, blocks of 1024 x N in memory.
    """
    limit = (rms * _CELL_MAX) ** 2 * thumbnail_NC.shape[1]
    square_N = (thumbnail_NC**2).sum(axis=1)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(thumbnail_NC), _BLOCK_PICTURES):
        block = slice(start, start + _BLOCK_PICTURES)
        distance = square_N[block, None] + square_N[start:] - 2 * thumbnail_NC[block] @ thumbnail_NC[start:].T
        first, second = np.nonzero(np.triu(distance < limit, k=1))
        pairs += [(start + int(i), start + int(j)) for i, j in zip(first, second, strict=True)]
    return sorted(pairs)


def distinct(pictures: list[npt.NDArray[np.uint8]], groups: list[tuple[str, str]]) -> list[bool]:
    """Return for each picture whether it stays; of two twins the later one goes.

    Pixel twins and blank pictures always go; near-twins go where their groups differ, because one group stays in
    one split anyway.
    """
    stays = [not is_blank(pixels) for pixels in pictures]
    content = [pixels.tobytes() for pixels in pictures]
    for i, j in near_pairs(np.stack([thumbnail(pixels) for pixels in pictures])):
        if stays[i] and (groups[i] != groups[j] or content[i] == content[j]):
            stays[j] = False
    return stays
