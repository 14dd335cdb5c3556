"""Made samples: a hand case, random pairs, and clusters in which only a joint selection finds what is learnable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from superbatch.selection import DualEmbeddings
from superbatch_server.preview.embedded import EmbeddedSample, row_uid
from tests.superbatch.selection.made import clusters

Arrays = dict[str, np.ndarray]


def hand_sample(num_rows: int) -> EmbeddedSample:
    """The first half of the rows is hard for the learner and easy for the reference, the second half the reverse.

    t = 2, bias = -1. Rows are orthogonal, so every negative's logit is -1 under both models and cancels. Text of a hard
    row points away from its picture: logit -3, loss softplus(3) = 3.0486; of an easy one along it: logit 1, loss
    softplus(-1) = 0.3133. Learnability: 2.7353 for a row of the first half, -2.7353 for one of the second.
    """
    image = np.eye(num_rows, dtype=np.float32)
    away = np.repeat([-1.0, 1.0], num_rows // 2).astype(np.float32)[:, None]
    return sample_of(
        learner=DualEmbeddings(torch.from_numpy(image), torch.from_numpy(image * away), 2.0, -1.0),
        reference=DualEmbeddings(torch.from_numpy(image), torch.from_numpy(-image * away), 2.0, -1.0),
    )


def clustered_sample(seed: int = 0) -> EmbeddedSample:
    made = clusters(seed, num_clusters=16, per_cluster=20, width=64)
    return sample_of(made.learner, made.reference)


def sample_of(learner: DualEmbeddings | None, reference: DualEmbeddings | None) -> EmbeddedSample:
    num_rows = len(learner or reference or ())
    uid = np.frombuffer(b"".join(map(row_uid, range(num_rows))), dtype=np.uint8).reshape(num_rows, 16)
    return EmbeddedSample("made rows", uid, np.arange(num_rows, dtype=np.int64), learner, reference)


def arrays(num_rows: int = 60, *, widths: tuple[int, int] = (8, 6), dtype: str = "f4") -> Arrays:
    """What a file of embeddings holds; learner and reference differ in width."""
    rng = np.random.default_rng(0)
    found: Arrays = {}
    for name, width, scale in (("learner", widths[0], 20.0), ("reference", widths[1], 40.0)):
        shared = rng.standard_normal((num_rows, width))
        for tower in ("image", "text"):
            rows = shared + 0.5 * rng.standard_normal((num_rows, width))
            found[f"{name}_{tower}"] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)
        found[f"{name}_logit_scale"], found[f"{name}_logit_bias"] = np.array(scale), np.array(-10.0)
    return found


def npz(folder: Path, changed: Arrays | None = None, *, without: tuple[str, ...] = ()) -> Path:
    """Write a file of embeddings, with some arrays changed or left out."""
    held = {name: array for name, array in {**arrays(), **(changed or {})}.items() if name not in without}
    path = folder / "embeddings.npz"
    np.savez(path, **held)
    return path
