"""Architectures and devices by name.

Architectures have the names and sizes of open_clip. Of the devices, peaks are the makers' dense figures with fp32
accumulation, power is the board's limit; prices are round figures for renting one on demand, in USD, which change
and are there to be replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from types import MappingProxyType

from superbatch.selection.cost.architecture import Architecture, Blocks, ImageTower, TextTower
from superbatch.selection.cost.errors import InvalidPlan
from superbatch.selection.cost.rates import Device

_CLIP_TOKENS, _CLIP_VOCABULARY = 77, 49_408
_SIGLIP_TOKENS, _SIGLIP_VOCABULARY = 64, 32_000


def _clip(side: int, patch: int, image: Blocks, text: Blocks, *, width: int) -> Architecture:
    return Architecture(
        ImageTower(side, patch, image, pooling="class_token"),
        TextTower(_CLIP_TOKENS, _CLIP_VOCABULARY, text),
        embedding_width=width,
    )


def _siglip(side: int, patch: int, blocks: Blocks, *, tokens: int = _SIGLIP_TOKENS) -> Architecture:
    return Architecture(
        ImageTower(side, patch, blocks, pooling="attention"),
        TextTower(tokens, _SIGLIP_VOCABULARY, blocks, projection_bias=True),
        embedding_width=blocks.width,
    )


_S, _B, _L, _H = Blocks(512, 12, 2048), Blocks(768, 12, 3072), Blocks(1024, 24, 4096), Blocks(1280, 32, 5120)
_L_TEXT, _SO400M = Blocks(768, 12, 3072), Blocks(1152, 27, 4304)

ARCHITECTURES = MappingProxyType(
    {
        "ViT-B-32": _clip(224, 32, _B, _S, width=512),
        "ViT-B-16": _clip(224, 16, _B, _S, width=512),
        "ViT-L-16": _clip(224, 16, _L, _L_TEXT, width=768),
        "ViT-L-14": _clip(224, 14, _L, _L_TEXT, width=768),
        "ViT-L-14-336": _clip(336, 14, _L, _L_TEXT, width=768),
        "ViT-H-14": _clip(224, 14, _H, _L, width=1024),
        "ViT-B-16-SigLIP": _siglip(224, 16, _B),
        "ViT-B-16-SigLIP-256": _siglip(256, 16, _B),
        "ViT-B-16-SigLIP-384": _siglip(384, 16, _B),
        "ViT-L-16-SigLIP-256": _siglip(256, 16, _L),
        "ViT-L-16-SigLIP-384": _siglip(384, 16, _L),
        "ViT-SO400M-14-SigLIP": _siglip(224, 14, _SO400M, tokens=16),
        "ViT-SO400M-14-SigLIP-384": _siglip(384, 14, _SO400M),
    }
)

DEVICES = MappingProxyType(
    {
        "H100": Device({"bf16": 989e12, "tf32": 495e12, "fp32": 67e12}, watts=700, price_per_hour=3.0),
        "H200": Device({"bf16": 989e12, "tf32": 495e12, "fp32": 67e12}, watts=700, price_per_hour=3.8),
        "A100": Device({"bf16": 312e12, "tf32": 156e12, "fp32": 19.5e12}, watts=400, price_per_hour=1.5),
        "L40S": Device({"bf16": 362e12, "tf32": 183e12, "fp32": 91.6e12}, watts=350, price_per_hour=0.9),
        "RTX-4090": Device({"bf16": 165e12, "tf32": 82.6e12, "fp32": 82.6e12}, watts=450, price_per_hour=0.4),
        "T4": Device({"fp16": 65e12, "fp32": 8.1e12}, watts=70, price_per_hour=0.3),
        # Rates of plain matrix products, measured on 2 cores of a Zen 4; watts and price are assumed.
        "CPU-core": Device({"fp32": 65e9, "bf16": 148e9}, watts=10, price_per_hour=0.04),
    }
)


def find_architecture(name: str) -> tuple[str, Architecture]:
    """Return an architecture and its exact name; upper and lower case are the same. Raises: InvalidPlan."""
    exact = _exact(name, ARCHITECTURES, kind="model", hint="Give --forward-gflops for another one.")
    return exact, ARCHITECTURES[exact]


def find_device(name: str) -> tuple[str, Device]:
    """Return a device and its exact name; upper and lower case are the same. Raises: InvalidPlan."""
    exact = _exact(name, DEVICES, kind="device", hint="Give --peak-tflops, --watts and --price for another one.")
    return exact, DEVICES[exact]


def _exact(name: str, known: Iterable[str], *, kind: str, hint: str) -> str:
    by_lower = {found.lower(): found for found in known}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    meant = get_close_matches(name.lower(), by_lower, n=1)
    suggestion = f" (did you mean {by_lower[meant[0]]}?)" if meant else ""
    raise InvalidPlan(f"a {kind} must be one of {', '.join(by_lower.values())}; got {name!r}{suggestion}. {hint}")
