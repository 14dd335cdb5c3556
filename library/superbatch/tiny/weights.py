"""A model directory: model.safetensors, config.json, tokenizer.json. Never a pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from superbatch.checkpoints.names import plain_name
from superbatch.formats.errors import InvalidInput
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.model import TinyDualEncoder, initial_model
from superbatch.tiny.tokenizer import TinyTokenizer

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"

MAX_HEADER_BYTES = 10_000_000
"""Room for names and notes in a weights file, as much as the service allows."""

ACCEPTED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_ZIP_MAGIC = b"PK\x03\x04"


class InvalidWeights(InvalidInput):
    """A weights file does not fit the model; the message names the first tensor that does not."""

    code = "invalid_weights"


def save_model(directory: Path, model: TinyDualEncoder, tokenizer: TinyTokenizer) -> None:
    """Write the three files; each appears whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    save_settings(directory, model.config, tokenizer)
    save_weights(directory / WEIGHTS_FILE, model.state_dict())


def save_settings(directory: Path, config: TinyConfig, tokenizer: TinyTokenizer) -> None:
    """Write config.json and tokenizer.json: a model without weights."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_whole(directory / CONFIG_FILE, config.to_bytes())
    _write_whole(directory / TOKENIZER_FILE, tokenizer.to_bytes())


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as a safetensors file; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, weights_to_bytes(state))


def weights_to_bytes(state: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the bytes of a safetensors file; equal tensors give equal bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})


def load_model(directory: Path) -> tuple[TinyDualEncoder, TinyTokenizer]:
    """Read a model directory; the model is in eval mode."""
    config, tokenizer = load_settings(directory)
    model = initial_model(config, seed=0)
    load_weights(model, directory / WEIGHTS_FILE)
    return model.eval(), tokenizer


def load_settings(directory: Path) -> tuple[TinyConfig, TinyTokenizer]:
    """Read config.json and tokenizer.json and check that they fit each other."""
    config = TinyConfig.load(directory / CONFIG_FILE)
    tokenizer = TinyTokenizer.load(directory / TOKENIZER_FILE)
    check_fit(config, tokenizer)
    return config, tokenizer


def check_fit(config: TinyConfig, tokenizer: TinyTokenizer) -> None:
    """Refuse a tokenizer with more tokens than the model has rows for."""
    if tokenizer.vocab_size > config.vocab_size:
        raise InvalidInput(
            f"the tokenizer must have at most vocab_size tokens; got {tokenizer.vocab_size} for {config.vocab_size}. "
            "Use the config.json and tokenizer.json of one model."
        )


def load_weights(model: nn.Module, source: bytes | Path) -> None:
    """Replace every weight of `model`, or none: names, shapes and values are all checked first.

    fp16 and bf16 are cast to the model's dtype; what wrappers put into names is stripped.
    Raises: InvalidWeights.
    """
    data = source.read_bytes() if isinstance(source, Path) else source
    found = _strip_prefixes(_parse(data))
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() - found.keys()):
        raise InvalidWeights(f"weights must hold every tensor of the model; missing {_names(missing)}.")
    if extra := sorted(found.keys() - wanted.keys()):
        raise InvalidWeights(f"weights must hold the tensors of the model alone; unexpected {_names(extra)}.")
    for name in sorted(wanted):
        _check_tensor(name, found[name], wanted[name].shape)
    model.load_state_dict({name: found[name].to(wanted[name].dtype) for name in wanted})


def check_size(path: Path, model: nn.Module) -> None:
    """Refuse a file far too large to be weights of `model`, before any of it is read into memory.

    Raises: InvalidWeights.
    """
    size = path.stat().st_size
    most = MAX_HEADER_BYTES + sum(8 * tensor.numel() for tensor in model.state_dict().values())
    if size > most:
        raise InvalidWeights(
            f"weights must be those of the model, at most {most} bytes here; got {size}. "
            "Save the learner alone, of the registered architecture."
        )


def _parse(data: bytes) -> dict[str, Tensor]:
    if _is_pickle(data):
        raise InvalidWeights(
            "weights must be a safetensors file; got a pickle (torch.save), which can run code when read. "
            "Write it with safetensors.torch.save_file."
        )
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidWeights(f"weights must be a safetensors file that torch can read: {error}.") from error


def _is_pickle(data: bytes) -> bool:
    """Return whether this is a pickle or a zip of pickles.

    The length of a safetensors header (1,152, say) may begin like a pickle; the byte after it is then a brace.
    """
    begins_like_pickle = data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return data.startswith(_ZIP_MAGIC) or (begins_like_pickle and data[8:9] != b"{")


def _strip_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    stripped: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = plain_name(name)
        if short in stripped:
            raise InvalidWeights(f"weights must name each tensor once; {short!r} comes twice, once as {name!r}.")
        stripped[short] = tensor
    return stripped


def _check_tensor(name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        raise InvalidWeights(f"tensor {name!r} must have the shape {list(shape)}; got {list(tensor.shape)}.")
    if tensor.dtype not in ACCEPTED_DTYPES:
        raise InvalidWeights(f"tensor {name!r} must be fp32, fp16 or bf16; got {tensor.dtype}.")
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidWeights(f"tensor {name!r} must be finite; it holds NaN or infinity.")


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
