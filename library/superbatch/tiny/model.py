"""A dual encoder small enough for two cores: a convolutional picture tower and a bag-of-tokens text tower.

B examples, C channels, H rows, W columns, T tokens, E token width, D embedding width. No dropout and no batch
statistics: an example's embedding does not depend on its neighbours.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from superbatch.tiny.config import CHANNELS_PER_GROUP, COLOUR_CHANNELS, KERNEL_SIZE, TinyConfig
from superbatch.tiny.preprocess import normalise
from superbatch.tiny.tokenizer import PADDING_ID

INITIAL_LOGIT_SCALE = 10.0
INITIAL_LOGIT_BIAS = -10.0


class TinyDualEncoder(nn.Module):
    """Two towers with unit-norm outputs, a learned logit scale (stored as its logarithm) and logit bias."""

    def __init__(self, config: TinyConfig) -> None:
        """Build both towers; weights come from torch's global generator (see `initial_model`)."""
        super().__init__()
        self.config = config
        self.image_tower = _image_tower(config)
        self.token_table = nn.Embedding(config.vocab_size, config.text_width, padding_idx=PADDING_ID)
        self.text_tower = nn.Sequential(
            nn.LayerNorm(config.text_width),
            nn.Linear(config.text_width, 2 * config.text_width),
            nn.GELU(),
            nn.Linear(2 * config.text_width, config.width),
        )
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_LOGIT_SCALE)))
        self.logit_bias = nn.Parameter(torch.tensor(INITIAL_LOGIT_BIAS))

    @property
    def logit_scale(self) -> Tensor:
        """Return the positive scale of the logits."""
        return self.log_logit_scale.exp()

    def encode_image(self, pixels_BCHW: Tensor) -> Tensor:
        """Return unit vectors image_BD of uint8 pixels."""
        image_BCHW = normalise(pixels_BCHW, self.token_table.weight.dtype)
        image_BCHW = image_BCHW.contiguous(memory_format=torch.channels_last)
        return functional.normalize(self.image_tower(image_BCHW).float(), dim=-1)

    def encode_text(self, tokens_BT: Tensor) -> Tensor:
        """Return unit vectors text_BD: the mean of a caption's tokens, padding left out, through two layers."""
        kept_BT1 = (tokens_BT != PADDING_ID).unsqueeze(-1)
        total_BE = (self.token_table(tokens_BT) * kept_BT1).sum(dim=1)
        mean_BE = total_BE / kept_BT1.sum(dim=1).clamp(min=1)
        return functional.normalize(self.text_tower(mean_BE).float(), dim=-1)

    def forward(self, pixels_BCHW: Tensor, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return (image_BD, text_BD)."""
        return self.encode_image(pixels_BCHW), self.encode_text(tokens_BT)


def initial_model(config: TinyConfig, *, seed: int) -> TinyDualEncoder:
    """Return an untrained model whose weights depend on `seed` alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyDualEncoder(config)


def _image_tower(config: TinyConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((COLOUR_CHANNELS, *config.image_channels)):
        layers += [
            nn.Conv2d(before, after, KERNEL_SIZE, stride=2, padding=1)
            if layers
            else nn.Conv2d(before, after, config.patch_size, stride=config.patch_size),
            nn.GroupNorm(after // CHANNELS_PER_GROUP, after),
            nn.GELU(),
        ]
    values = config.image_channels[-1] * config.image_sides[-1] ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(values, config.width))
