"""A small world for end-to-end tests: shards with known damage, and two random tiny models."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from superbatch.tiny.config import TinyConfig
from superbatch.tiny.model import initial_model
from superbatch.tiny.tokenizer import train_tokenizer
from superbatch.tiny.weights import save_model, save_weights

NUM_SHARDS = 6
ROWS_PER_SHARD = 60
QUARANTINED = {"undecodable_picture": 2, "empty_caption": 1}
WORDS = ("red", "green", "blue", "round", "square", "small", "large", "arrow", "heart", "house")
CONFIG = TinyConfig(image_channels=(8, 16), vocab_size=400, text_width=16, width=16)


@dataclass(frozen=True)
class World:
    """Folders that become roots."""

    shards: Path
    models: Path

    @property
    def roots(self) -> dict[str, Path]:
        """Root name to folder."""
        return {"shards": self.shards, "models": self.models}

    def manifest(self) -> dict[str, object]:
        """Return the body of POST /v1/datasets: two sources of three shards."""
        shards = [{"key": f"{i:02d}.tar", "source": "even" if i % 2 == 0 else "odd"} for i in range(NUM_SHARDS)]
        return {"name": "small world", "root": "shards", "shards": shards}

    def model_files(self, name: str, *, weights: bool = True) -> list[dict[str, str]]:
        """Return the `files` of POST /v1/models."""
        roles = {"config": "config.json", "tokenizer": "tokenizer.json"}
        if weights:
            roles["weights"] = "model.safetensors"
        return [self.file(role, f"{name}/{file}") for role, file in roles.items()]

    def file(self, role: str, key: str) -> dict[str, str]:
        """Return one file reference in the root `models`."""
        digest = hashlib.sha256((self.models / key).read_bytes()).hexdigest()
        return {"role": role, "root": "models", "key": key, "sha256": digest}

    def write_checkpoint(self, name: str, *, seed: int) -> dict[str, str]:
        """Write weights of the learner's architecture and return their file reference."""
        save_weights(self.models / name / "model.safetensors", initial_model(CONFIG, seed=seed).state_dict())
        return self.file("weights", f"{name}/model.safetensors")


def build(folder: Path) -> World:
    """Write shards and models under `folder`."""
    world = World(shards=folder / "shards", models=folder / "models")
    world.shards.mkdir(parents=True)
    generator = np.random.default_rng(7)
    captions = [" ".join(generator.choice(WORDS, size=3)) for _ in range(NUM_SHARDS * ROWS_PER_SHARD)]
    for shard in range(NUM_SHARDS):
        _write_shard(world.shards / f"{shard:02d}.tar", captions[shard * ROWS_PER_SHARD :], shard=shard)
    tokenizer = train_tokenizer(captions, vocab_size=CONFIG.vocab_size)
    for name, seed in (("reference", 1), ("learner", 2)):
        save_model(world.models / name, initial_model(CONFIG, seed=seed), tokenizer)
    return world


def _write_shard(path: Path, captions: list[str], *, shard: int) -> None:
    with tarfile.open(path, "w") as tar:
        for row in range(ROWS_PER_SHARD):
            picture = _picture(seed=(shard, row if row != 5 else 4))  # row 5 shows the picture of row 4 again
            caption = captions[row].encode()
            if (shard, row) in ((1, 7), (4, 0)):
                picture = picture[: len(picture) // 2]
            if (shard, row) == (2, 9):
                caption = b""
            _add(tar, f"{row:04d}.png", picture)
            _add(tar, f"{row:04d}.txt", caption)


def _picture(*, seed: tuple[int, int]) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(4, 4, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(data, format="PNG")
    return data.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
