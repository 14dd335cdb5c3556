"""`--variant` of `superbatch submit`: one way to show rows to the model, as name=number pairs."""

from __future__ import annotations

import argparse

from superbatch.formats.canonical import JsonValue

METAVAR = "resolution=PX,patch=PX,flops_fraction=X,share=X"

_KINDS = {"resolution": int, "patch": int, "flops_fraction": float, "share": float}


def variant(text: str) -> dict[str, JsonValue]:
    """Return the variant that the text spells: resolution=224,patch=32,flops_fraction=0.28,share=0.5."""
    found: dict[str, JsonValue] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if name not in _KINDS or not equals or name in found:
            raise argparse.ArgumentTypeError(f"must be {METAVAR}, each once; got {part!r}")
        try:
            found[name] = _KINDS[name](value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{name} must be a number; got {value!r}") from error
    return found
