"""Multiply-adds of the tiny encoder from its sizes alone; no torch needed.

Counted as torch's flop counter does: 2 per multiply-add of convolutions and matrix products, nothing else.
"""

from __future__ import annotations

import itertools

from superbatch.tiny.config import COLOUR_CHANNELS, KERNEL_SIZE, TinyConfig


def image_forward_flops(config: TinyConfig) -> int:
    """Return the FLOPs of one picture through its tower."""
    flops = 0
    channels = itertools.pairwise((COLOUR_CHANNELS, *config.image_channels))
    for layer, ((before, after), side) in enumerate(zip(channels, config.image_sides, strict=True)):
        kernel = config.patch_size if layer == 0 else KERNEL_SIZE
        flops += 2 * before * kernel**2 * after * side**2
    return flops + 2 * config.image_channels[-1] * config.image_sides[-1] ** 2 * config.width


def text_forward_flops(config: TinyConfig) -> int:
    """Return the FLOPs of one caption through its tower; looking up tokens and their mean are not counted."""
    hidden = 2 * config.text_width
    return 2 * config.text_width * hidden + 2 * hidden * config.width


def forward_flops_per_example(config: TinyConfig) -> int:
    """Return the FLOPs of one pair through both towers."""
    return image_forward_flops(config) + text_forward_flops(config)
