"""A small world: shards with known damage, a tiny reference and a tiny learner, all made in a folder."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from superbatch.formats.digests import dataset_fingerprint
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.model import initial_model
from superbatch.tiny.tokenizer import TinyTokenizer, train_tokenizer
from superbatch.tiny.weights import save_model, save_weights
from superbatch_server.schemas.datasets import DatasetManifest, ShardEntry
from superbatch_server.schemas.models import FileRef, Model
from superbatch_server.workers.worker_settings import WorkerSettings

NUM_SHARDS = 5
ROWS_PER_SHARD = 23
QUARANTINED = {"undecodable_picture": 1, "empty_caption": 1, "missing_picture": 1, "picture_too_large": 1}
POISON = "zzzz"
"""A caption that a poisoned checkpoint cannot embed."""
HUGE = 3e38
"""Finite, so that the weights are accepted; sums and norms of it are not."""
CONFIG = TinyConfig(image_size=8, image_channels=(8, 8), vocab_size=300, context_length=6, text_width=8, width=16)
WORDS = ("red", "green", "blue", "round", "square", "small", "large", "arrow", "heart", "house")

Member = tuple[str, bytes]


def png(seed: tuple[int, ...], *, side: int = 8) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(8, 8, 3), dtype=np.uint8)
    pixels = pixels if side == 8 else np.zeros((side, side, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    return data.getvalue()


def tar_of(members: list[Member]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def shard_members(shard: int) -> list[Member]:
    """23 pairs; row 5 of each shard shows the picture of row 4; four broken rows over the shards; one poisoned."""
    words = np.random.default_rng((9, shard))
    members: list[Member] = []
    for row in range(ROWS_PER_SHARD):
        picture, caption = png((shard, 4 if row == 5 else row)), " ".join(words.choice(WORDS, size=3)).encode()
        match (shard, row):
            case (0, 3):
                picture = picture[: len(picture) // 2]
            case (1, 0):
                caption = b"  \n"
            case (2, 22):
                picture = b""
            case (3, 7):
                picture = png((3, 7), side=4200)
            case (4, 11):
                caption = POISON.encode()
        members += [(f"{row:03d}.png", picture), (f"{row:03d}.txt", caption)]
    return members


@dataclass(frozen=True)
class World:
    """Where everything lies. Roots: `data` holds shards, `models` models and checkpoints."""

    folder: Path

    @property
    def roots(self) -> dict[str, str]:
        return {"data": str(self.folder / "data"), "models": str(self.folder / "models")}

    def settings(self, *, micro_batch: int = 4, writer: str = "job_1-1") -> WorkerSettings:
        return WorkerSettings(
            roots=self.roots,
            store_url=str(self.folder / "store"),
            writer=writer,
            scratch=str(self.folder / "scratch"),
            threads=1,
            dtype="float32",
            micro_batch=micro_batch,
        )

    def shards(self) -> list[ShardEntry]:
        paths = sorted((self.folder / "data").glob("*.tar"))
        digests = [sha256(path.read_bytes()).hexdigest() for path in paths]
        return [
            ShardEntry(
                shard_id=i,
                key=path.name,
                source="even" if i % 2 == 0 else "odd",
                sha256=digest,
                rows=ROWS_PER_SHARD,
                start_index=i * ROWS_PER_SHARD,
                fingerprint=digest,
            )
            for i, (path, digest) in enumerate(zip(paths, digests, strict=True))
        ]

    def fingerprint(self) -> str:
        prints = [bytes.fromhex(shard.fingerprint or "") for shard in self.shards()]
        towers = {"a": "image", "b": "text"}
        return dataset_fingerprint(
            format="webdataset", towers=towers, caption_field="txt", shard_fingerprints=prints
        ).hex()

    def manifest(self) -> DatasetManifest:
        return DatasetManifest.model_validate(
            {"name": "world", "root": "data", "shards": [{"key": shard.key} for shard in self.shards()]}
        )

    def model(self, name: str) -> Model:
        files = [
            self.file(role, f"{name}/{file}")
            for role, file in (
                ("config", "config.json"),
                ("tokenizer", "tokenizer.json"),
                ("weights", "model.safetensors"),
            )
        ]
        return Model.model_validate(
            {
                "id": "model_" + sha256(name.encode()).hexdigest()[:16],
                "name": name,
                "state": "READY",
                "manifest": {"name": name, "family": "tiny", "files": files},
                "digest": None,
                "error_code": None,
                "error": None,
                "created_at": "2026-01-01T00:00:00Z",
            }
        )

    def file(self, role: str, key: str) -> FileRef:
        digest = sha256((self.folder / "models" / key).read_bytes()).hexdigest()
        return FileRef.model_validate({"role": role, "root": "models", "key": key, "sha256": digest})

    def checkpoint(self, name: str, *, seed: int, poison: str = "none") -> FileRef:
        """Write learner weights. poison: `none`, `row` (POISON captions get no embedding) or `all` (no row does)."""
        state = initial_model(CONFIG, seed=seed).state_dict()
        if poison == "row":
            tokens = self.tokenizer().encode([POISON], context_length=CONFIG.context_length)[0]
            state["token_table.weight"][int(tokens[tokens != 0][-1])] = HUGE
        elif poison == "all":
            state["text_tower.3.bias"][:] = HUGE
        save_weights(self.folder / "models" / name / "model.safetensors", state)
        return self.file("weights", f"{name}/model.safetensors")

    def tokenizer(self) -> TinyTokenizer:
        return TinyTokenizer.load(self.folder / "models" / "learner" / "tokenizer.json")


def build(folder: Path) -> World:
    """Write shards and models."""
    (folder / "data").mkdir(parents=True)
    for shard in range(NUM_SHARDS):
        (folder / "data" / f"{shard:02d}.tar").write_bytes(tar_of(shard_members(shard)))
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, vocab_size=CONFIG.vocab_size)
    for name, seed in (("reference", 1), ("learner", 2)):
        save_model(folder / "models" / name, initial_model(CONFIG, seed=seed), tokenizer)
    return World(folder)
