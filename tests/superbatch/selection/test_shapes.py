"""The shapes that public functions state hold at run time. They are strings, resolved here and nowhere else."""

from __future__ import annotations

from types import FunctionType
from typing import Any, get_type_hints

import jaxtyping
import numpy as np
import pytest
import torch
from beartype import beartype

import superbatch.selection
from superbatch.selection import losses, noise, slots
from superbatch.selection.methods import draw
from superbatch.selection.pairs import tiles
from tests.superbatch.selection import made

NAMES = {name: getattr(jaxtyping, name) for name in ("Bool", "Float", "Float64", "Int", "UInt", "UInt8", "UInt64")}
NAMES |= {"Tensor": torch.Tensor, "np": np}

UIDS = np.random.default_rng(0).integers(0, 256, (9, 16), dtype=np.uint8)
INDEX = np.arange(9)
MODEL = made.candidates(9).learner


def checked(function: Any) -> Any:
    """A copy of the function that checks the shapes it states."""
    copy = FunctionType(function.__code__, function.__globals__, function.__name__)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = get_type_hints(function, localns=NAMES)
    return jaxtyping.jaxtyped(typechecker=beartype)(copy)


CALLS = [
    (noise.gumbel, (1, 2), {"round": 1, "uids": UIDS}),
    (noise.noise_bits, (1, 2), {"round": 1, "uids": UIDS}),
    (noise.uid_words, (UIDS,), {}),
    (slots.slot_permutation, (1, 2), {"uids": UIDS, "dataset_index": INDEX, "variant": INDEX % 2}),
    (slots.draw_variants, (1, 2), {"uids": UIDS, "dataset_index": INDEX, "counts": (4, 5)}),
    (slots.in_slots, (1, 2), {"uids": UIDS, "dataset_index": INDEX, "counts": (4, 5)}),
    (draw.identity_rank, (UIDS, INDEX), {}),
    (draw.draw_largest, (torch.arange(9.0), 4), {"rank": torch.arange(9), "free": torch.arange(9) > 2}),
    (losses.diagonal_loss, (MODEL,), {}),
    (losses.own_conditional_loss, (MODEL,), {}),
    (losses.own_conditional_loss, (MODEL,), {"loss": "softmax"}),
    (losses.probe_loss, (MODEL, INDEX[:4]), {}),
    (tiles.softplus_sum, (torch.zeros(3, 5),), {"scratch": torch.zeros(3, 5)}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS, ids=[call[0].__name__ for call in CALLS])
def test_stated_shapes_hold(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    checked(function)(*args, **kwargs)


def test_a_wrong_shape_is_caught() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(draw.identity_rank)(UIDS, INDEX[:-1])


def test_every_public_name_loads() -> None:
    for name in superbatch.selection.__all__:
        assert getattr(superbatch.selection, name).__name__ == name
