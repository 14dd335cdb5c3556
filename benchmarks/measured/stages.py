"""Tiny encoders trained on a split of the sample, kept as model folders at several stages of one run.

Letters: B rows, C channels, H rows and W columns of a picture, T tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from superbatch.formats.tar import iter_samples
from superbatch.selection.spec import Loss
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.loss import sigmoid_loss
from superbatch.tiny.model import TinyDualEncoder, initial_model
from superbatch.tiny.picture import BadRow, open_picture, read_caption
from superbatch.tiny.preprocess import picture_to_pixels
from superbatch.tiny.tokenizer import TinyTokenizer, train_tokenizer
from superbatch.tiny.weights import save_model

SAMPLE = Path(__file__).parents[2] / "examples" / "sample" / "data"

BATCH_ROWS, LEARNING_RATE, WARMUP_STEPS, EMA = 128, 6e-3, 20, 0.97
"""Those of examples/train_tiny.py."""


class Pair(NamedTuple):
    """A decoded picture, as uint8 pixels, and its caption."""

    pixels_CHW: np.ndarray
    caption: str


def tars_of(split: str) -> list[Path]:
    """Return the sample's tars of `clean`, `pool` or `test`."""
    return sorted(SAMPLE.glob(f"{split}-*.tar"))


def train_clean_tokenizer(tars: Sequence[Path]) -> TinyTokenizer:
    """Return the tokenizer learned from the captions of these tars, as the demo learns it from the clean split."""
    return train_tokenizer([pair.caption for pair in _pairs(tars)], vocab_size=TinyConfig.vocab_size)


def train_stages(
    tars: Sequence[Path], folder: Path, tokenizer: TinyTokenizer, *, loss: Loss, seed: int, stages: Sequence[int]
) -> list[Path]:
    """Train one run on uniform batches of the tars' pairs; return its model folders after so many steps each.

    What is saved is the moving average of the weights, as the example trainer does.
    """
    config = TinyConfig()
    pairs = _pairs(tars)
    pixels_BCHW = torch.from_numpy(np.stack([pair.pixels_CHW for pair in pairs]))
    tokens_BT = torch.from_numpy(tokenizer.encode([p.caption for p in pairs], context_length=config.context_length))
    model = initial_model(config, seed=seed)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    rng = np.random.default_rng(seed)
    folders = []
    for step in range(1, max(stages) + 1):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, step / WARMUP_STEPS)
        rows = torch.from_numpy(rng.integers(0, len(pairs), BATCH_ROWS))
        batch_loss = _loss(model, pixels_BCHW[rows], tokens_BT[rows], loss)
        optimizer.zero_grad()
        batch_loss.backward()
        optimizer.step()
        _follow(average, model, keep=min(EMA, step / (9 + step)))
        if step in stages:
            folders.append(folder / str(step))
            save_model(folders[-1], average, tokenizer)
    return folders


def _loss(model: TinyDualEncoder, pixels_BCHW: torch.Tensor, tokens_BT: torch.Tensor, loss: Loss) -> torch.Tensor:
    image_BD, text_BD = model(pixels_BCHW, tokens_BT)
    if loss == "sigmoid":
        return sigmoid_loss(image_BD, text_BD, model.logit_scale, model.logit_bias)
    logits_BB = image_BD @ text_BD.T * model.logit_scale
    own_B = torch.arange(len(logits_BB))
    return (cross_entropy(logits_BB, own_B) + cross_entropy(logits_BB.T, own_B)) / 2


@torch.no_grad()
def _follow(average: TinyDualEncoder, model: TinyDualEncoder, *, keep: float) -> None:
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1.0 - keep)


def _pairs(tars: Sequence[Path]) -> list[Pair]:
    pairs = []
    for path in tars:
        with path.open("rb") as stream:
            for sample in iter_samples(stream, read=True, suffixes=("png", "txt"), where=str(path)):
                try:
                    picture = open_picture(sample.data.get("png"))
                    caption = read_caption(sample.data.get("txt"))
                except BadRow:
                    continue
                pairs.append(Pair(picture_to_pixels(picture, size=TinyConfig.image_size), caption))
    return pairs
