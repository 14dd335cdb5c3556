"""The learner's tensors out of what trainers save: the model alone, under its plain names, without optimizer state."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from superbatch.checkpoints.names import plain_name
from superbatch.formats.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    Source = nn.Module | Mapping[str, object] | str | os.PathLike[str]

KNOWN_KEYS = ("state_dict", "model_state_dict", "model", "module", "net")
"""Where checkpoints keep the model: open_clip and Lightning, the PyTorch tutorial, timm and plain loops, DeepSpeed."""

JOB_NOTE = "superbatch_job"
"""Metadata of the file that says whose learner it is; the service refuses it for any other job."""

_SAFETENSORS = ".safetensors"
_MAX_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Selected:
    """The tensors of a learner, and what was there beside them: name -> why it was left out."""

    tensors: dict[str, Tensor]
    left_out: dict[str, str]


def learner_weights(source: Source, *, job: str | None = None, key: str | None = None, prefix: str = "") -> bytes:
    """Return the learner as the bytes of a safetensors file, ready for `BatchLog.push_checkpoint`.

    Wrappers' names are stripped (`module.`, `_orig_mod.`), tensors that share memory are each written in full, dtypes
    are kept. Equal weights give equal bytes, whatever the order of the dict, the device or the wrappers.

    Args:
        source: a model, its state dict, a dict that holds the state dict, or the path of a file with one of them
            (torch.save, read with weights_only=True, or safetensors).
        job: id of the job whose learner this is, noted in the file.
        key: entry of a dict that holds the state dict; None to find it.
        prefix: the tensors to take, where a trainer's module contains more than the learner; it is stripped.
    Raises:
        InvalidInput: no state dict, or several; a tensor that is sharded, on no device, or of a dtype that is neither
            fp32, fp16, bf16 nor an integer or bool buffer.
    Cost: the weights once more in memory, twice while they are on another device.
    """
    from safetensors.torch import save

    return save(select_weights(source, key=key, prefix=prefix).tensors, metadata=notes(job))


def select_weights(source: Source, *, key: str | None = None, prefix: str = "") -> Selected:
    """Return the learner's tensors on the CPU, contiguous and none sharing memory with another.

    Args and Raises: as `learner_weights`.
    """
    from torch import nn

    found: object = _loaded(Path(source)) if isinstance(source, (str, os.PathLike)) else source
    if isinstance(found, nn.Module):
        found = found.state_dict()
    if not isinstance(found, Mapping):
        raise InvalidInput(
            f"weights must be a model, a state dict or a dict that holds one; got {type(found).__name__}. "
            "Save model.state_dict()."
        )
    state, left_out = _state_dict(found, key)
    tensors = _named(state, prefix, left_out)
    if not tensors:
        raise InvalidInput(
            f"a checkpoint must hold tensors of the learner; got none{f' under {prefix!r}' if prefix else ''} among "
            f"{_shown(state)}. Check the key and the prefix."
        )
    return Selected(_unshared(tensors), left_out)


def notes(job: str | None) -> dict[str, str] | None:
    """Return the metadata of a learner's file. One entry at most: safetensors writes several in no fixed order."""
    return None if job is None else {JOB_NOTE: job}


def _loaded(path: Path) -> object:
    import torch
    from safetensors.torch import load_file

    if path.suffix == _SAFETENSORS:
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _state_dict(source: Mapping[str, object], key: str | None) -> tuple[Mapping[str, object], dict[str, str]]:
    """Return the state dict within `source`, and the names beside it."""
    if key is None and _holds_tensors(source):
        return source, {}
    holders = [name for name, value in source.items() if isinstance(value, Mapping) and _holds_tensors(value)]
    found = [name for name in KNOWN_KEYS if name in holders] if key is None else [key]
    if len(found) != 1:
        raise InvalidInput(
            f"a checkpoint must say where its model is; got {_shown(found or source)}"
            f"{', any of which may be it' if found else ' and no state dict by a known name'}. "
            f"Name the entry (key, --key); entries with tensors: {_shown(holders)}."
        )
    if found[0] not in holders:
        raise InvalidInput(
            f"the key must name an entry with tensors; got {found[0]!r}, entries with tensors: {_shown(holders)}. "
            "Name one of them, or none."
        )
    beside = {str(name): "not the model" for name in source if name != found[0]}
    return cast("Mapping[str, object]", source[found[0]]), beside


def _holds_tensors(values: Mapping[str, object]) -> bool:
    from torch import Tensor

    return any(isinstance(value, Tensor) for value in values.values())


def _named(state: Mapping[str, object], prefix: str, left_out: dict[str, str]) -> dict[str, Tensor]:
    from torch import Tensor

    wanted = plain_name(prefix)
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        short = plain_name(str(name))
        if not isinstance(value, Tensor):
            left_out[str(name)] = "no tensor"
        elif not short.startswith(wanted):
            left_out[str(name)] = f"outside {prefix!r}"
        else:
            short = plain_name(short.removeprefix(wanted))
            if short in tensors:
                raise InvalidInput(
                    f"each tensor must have a name of its own once wrappers are stripped; got {short!r} twice, once as "
                    f"{name!r}. Save one model only, or name its prefix."
                )
            tensors[short] = _checked(short, value)
    return tensors


def _checked(name: str, tensor: Tensor) -> Tensor:
    import torch

    kept = (torch.float32, torch.float16, torch.bfloat16)
    if hasattr(tensor, "full_tensor"):
        raise InvalidInput(
            f"a checkpoint must be whole; got the shard of this rank for {name!r} (DTensor). Gather it first, for "
            "example with torch.distributed.checkpoint.state_dict.get_model_state_dict(full_state_dict=True)."
        )
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        raise InvalidInput(
            f"a tensor must be dense and in memory; got {name!r} on {tensor.device}, {tensor.layout}. "
            "Save the model after it was materialized."
        )
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in kept):
        raise InvalidInput(
            f"a tensor must be fp32, fp16 or bf16; got {tensor.dtype} for {name!r}. Cast the model, for example "
            "with model.to(torch.float32)."
        )
    return tensor.detach()


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    whole: dict[str, Tensor] = {}
    for name, kept in tensors.items():
        tensor = kept.cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        whole[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return whole


def _shown(names: Mapping[str, object] | list[str]) -> str:
    listed = [repr(str(name)[:80]) for name in names]
    more = f" and {len(listed) - _MAX_SHOWN} more" if len(listed) > _MAX_SHOWN else ""
    return (", ".join(listed[:_MAX_SHOWN]) or "nothing") + more
