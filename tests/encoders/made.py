"""A small tiny encoder on disk, and stored pairs for it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from superbatch.tiny.model import initial_model
from superbatch.tiny.weights import save_model
from superbatch_server.encoders.protocol import DualEncoder
from superbatch_server.encoders.registry import load_encoder
from tests.superbatch.tiny.made import CONFIG, WORDS, a_tokenizer

ROLES = {"weights": "model.safetensors", "config": "config.json", "tokenizer": "tokenizer.json"}


def model_files(folder: Path, *, seed: int = 3) -> dict[str, Path]:
    """Write a model with random weights and return its files by role."""
    save_model(folder, initial_model(CONFIG, seed=seed), a_tokenizer())
    return {role: folder / name for role, name in ROLES.items()}


def an_encoder(folder: Path, *, dtype: str = "float32", threads: int = 1) -> DualEncoder:
    return load_encoder("tiny", model_files(folder), threads=threads, dtype=dtype)


def a_pair(seed: int) -> tuple[bytes, bytes]:
    """A stored picture and caption."""
    generator = np.random.default_rng(seed)
    data = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(data, format="PNG")
    return data.getvalue(), " ".join(generator.choice(WORDS, 3)).encode()
