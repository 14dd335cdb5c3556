"""A device that is not the CPU, made believe: tensors that say so, live on the CPU, and refuse to meet CPU tensors.

What a GPU would refuse, this refuses too, by the name of the operation. It also counts what would make the host wait.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")  # any build of torch knows it, and no other code here uses it

_MAKES = ("aten::empty", "aten::full", "aten::zeros", "aten::ones", "aten::arange", "aten::scalar_tensor")
_WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::unique_dim", "aten::_unique2", "aten::masked_select")


class ElsewhereTensor(Tensor):
    """Says that it is on DEVICE; `held` has the values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> ElsewhereTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    def numpy(self, *, force: bool = False) -> Any:
        """As on a GPU: only with force, which waits."""
        assert force, f"can't convert a tensor on {DEVICE} to numpy without force=True"
        return self.cpu().numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} reached a tensor on {DEVICE} outside of `with Elsewhere()`")


class Elsewhere(TorchDispatchMode):
    """Within it tensors can be made on DEVICE or moved there; `waits` counts, by operation, what a GPU's host waits
    for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        is_here = [isinstance(tensor, ElsewhereTensor) for tensor in tensors]
        goal = kwargs.get("device")
        if name == "aten::_to_copy" and goal is not None:
            held = _held(args[0]).to(kwargs.get("dtype") or args[0].dtype, copy=True)
            self._count(f"{name} to {torch.device(goal).type}", waits=torch.device(goal).type == "cpu" and is_here[0])
            return ElsewhereTensor(held) if torch.device(goal).type == DEVICE.type else held
        if not tensors and goal is not None and torch.device(goal).type == DEVICE.type:
            assert name.startswith(_MAKES), f"{func} makes a tensor in a way this device does not know"
            return ElsewhereTensor(func(*args, **{**kwargs, "device": "cpu"}))
        if not any(is_here):
            return func(*args, **kwargs)
        strangers = [tensor for tensor, here in zip(tensors, is_here, strict=True) if not here]
        if name != "aten::copy_":
            assert all(t.ndim == 0 and name != "aten::index" for t in strangers), f"{func} got tensors of two devices"
        is_mask = name == "aten::index" and any(t.dtype == torch.bool for t in tensors[1:])
        self._count(name, waits=name in _WAITS or is_mask)
        kwargs.pop("device", None)
        held_args, held_kwargs = tree_map(_held, (args, kwargs))
        found = tree_map(
            lambda each: ElsewhereTensor(each) if isinstance(each, Tensor) else each, func(*held_args, **held_kwargs)
        )
        return return_and_correct_aliasing(func, args, kwargs, found)

    def _count(self, name: str, *, waits: bool) -> None:
        if waits:
            self.waits[name.removeprefix("aten::")] += 1


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, ElsewhereTensor) else leaf
