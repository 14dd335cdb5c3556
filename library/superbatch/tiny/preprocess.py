"""Picture -> pixels, the same way for trainer and service: no crop, no augmentation, nothing random.

C colour channels, H rows, W columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

PREPROCESS_VERSION = "tiny-preprocess-v1: rgb on white, squashed by bicubic, x / 127.5 - 1; caption stripped"
"""Part of every encoder digest: change it with anything here, in picture.py or in how captions become tokens."""


def picture_to_pixels(picture: Image.Image, *, size: int) -> npt.NDArray[np.uint8]:
    """Return the picture squashed to `size` x `size` as uint8 pixels_CHW."""
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))


def normalise(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return uint8 pixels as numbers in [-1, 1]."""
    return pixels.to(dtype).div_(127.5).sub_(1.0)
