"""Names of tensors without what wrappers put into them."""

from __future__ import annotations

WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before the names of a model's tensors."""

_WRAPPER_PARTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def plain_name(name: str) -> str:
    """Return a tensor's name in the bare model.

    `module.` and `_orig_mod.` go from the front, however many; the parts that torch.compile, FSDP and activation
    checkpointing put around single layers go from anywhere, since no layer is called so.
    """
    while name.startswith(WRAPPER_PREFIXES):
        name = name.partition(".")[2]
    return ".".join(part for part in name.split(".") if part not in _WRAPPER_PARTS)
