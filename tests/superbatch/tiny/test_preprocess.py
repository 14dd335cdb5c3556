from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from superbatch.tiny.preprocess import normalise, picture_to_pixels


def test_a_picture_of_the_right_size_keeps_every_pixel() -> None:
    pixels_HWC = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    pixels_CHW = picture_to_pixels(Image.fromarray(pixels_HWC), size=4)
    assert pixels_CHW.shape == (3, 4, 4)
    assert pixels_CHW[2, 1, 3] == pixels_HWC[1, 3, 2]


def test_a_wide_picture_is_squashed_whole() -> None:
    left_red = Image.new("RGB", (64, 16), "blue")
    left_red.paste("red", (0, 0, 32, 16))
    pixels_CHW = picture_to_pixels(left_red, size=8)
    assert pixels_CHW.dtype == np.uint8
    assert pixels_CHW[:, 4, 0].tolist() == [255, 0, 0]
    assert pixels_CHW[:, 4, 7].tolist() == [0, 0, 255]


def test_numbers_run_from_minus_one_to_one() -> None:
    assert normalise(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]
