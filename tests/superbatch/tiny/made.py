"""A model of a few thousand weights, and rows to put through it."""

from __future__ import annotations

import numpy as np
import torch

from superbatch.tiny.config import TinyConfig
from superbatch.tiny.tokenizer import TinyTokenizer, train_tokenizer

CONFIG = TinyConfig(image_size=16, image_channels=(8, 16), vocab_size=300, context_length=6, text_width=16, width=8)
WORDS = ("red", "green", "blue", "round", "square", "arrow", "heart", "house")


def a_tokenizer() -> TinyTokenizer:
    return train_tokenizer([f"{a} {b}" for a in WORDS for b in WORDS], vocab_size=CONFIG.vocab_size)


def some_rows(count: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pixels_BCHW and tokens_BT, no row padded."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, 3, CONFIG.image_size, CONFIG.image_size), dtype=np.uint8)
    tokens = generator.integers(1, CONFIG.vocab_size, (count, CONFIG.context_length))
    return torch.from_numpy(pixels), torch.from_numpy(tokens)
