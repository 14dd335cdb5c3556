from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from superbatch.formats.errors import InvalidInput
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.model import initial_model
from superbatch.tiny.weights import (
    InvalidWeights,
    load_model,
    load_weights,
    save_model,
    save_settings,
    weights_to_bytes,
)
from tests.superbatch.tiny.made import CONFIG, a_tokenizer, some_rows

State = dict[str, Tensor]


def state(seed: int = 3) -> State:
    return dict(initial_model(CONFIG, seed=seed).state_dict())


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    model = initial_model(CONFIG, seed=3)
    save_model(tmp_path / "run", model, a_tokenizer())
    again, tokenizer = load_model(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert tokenizer.to_bytes() == a_tokenizer().to_bytes()
    for a, b in zip(model(*some_rows(3)), again(*some_rows(3)), strict=True):
        assert torch.equal(a, b)


def test_equal_weights_give_equal_bytes() -> None:
    assert weights_to_bytes(state()) == weights_to_bytes(dict(reversed(state().items())))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cast(dtype: torch.dtype) -> None:
    model = initial_model(CONFIG, seed=9)
    load_weights(model, save({name: tensor.to(dtype) for name, tensor in state().items()}))
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())
    assert torch.equal(model.token_table.weight, state()["token_table.weight"].to(dtype).float())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_names_that_wrappers_give_are_understood(prefix: str) -> None:
    model = initial_model(CONFIG, seed=9)
    load_weights(model, save({prefix + name: tensor for name, tensor in state().items()}))
    assert torch.equal(model.token_table.weight, state()["token_table.weight"])


def without(name: str) -> Callable[[State], State]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def with_tensor(name: str, tensor: Tensor) -> Callable[[State], State]:
    return lambda tensors: {**tensors, name: tensor}


def with_one_nan(tensors: State) -> State:
    tensors["text_tower.1.weight"][0, 0] = float("nan")
    return tensors


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without("logit_bias"), "missing 'logit_bias'"),
        (with_tensor("optimizer.step", torch.zeros(1)), "unexpected 'optimizer.step'"),
        (with_tensor("module.logit_bias", torch.zeros(())), "'logit_bias' comes twice"),
        (with_tensor("logit_bias", torch.zeros(2)), r"'logit_bias' must have the shape \[\]; got \[2\]"),
        (with_tensor("logit_bias", torch.tensor(3)), "'logit_bias' must be fp32, fp16 or bf16; got torch.int64"),
        (with_tensor("logit_bias", torch.tensor(float("inf"))), "'logit_bias' must be finite"),
        (with_one_nan, r"'text_tower.1.weight' must be finite"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_and_nothing_changes(change: Callable[[State], State], named: str) -> None:
    model = initial_model(CONFIG, seed=9)
    before = weights_to_bytes(model.state_dict())
    with pytest.raises(InvalidWeights, match=named):
        load_weights(model, save(change(state())))
    assert weights_to_bytes(model.state_dict()) == before


def torch_file(**options: bool) -> bytes:
    data = io.BytesIO()
    torch.save(state(), data, **options)
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [torch_file(), torch_file(_use_new_zipfile_serialization=False), pickle.dumps({"weight": 1}, protocol=4)],
)
def test_a_pickle_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(InvalidWeights, match=r"pickle.*safetensors.torch.save_file"):
        load_weights(initial_model(CONFIG, seed=9), data)


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_file_cut_off_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(save(state())[:length])
    with pytest.raises(InvalidWeights, match="safetensors"):
        load_weights(initial_model(CONFIG, seed=9), path)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    save_settings(tmp_path, TinyConfig(vocab_size=257), a_tokenizer())
    with pytest.raises(InvalidInput, match="vocab_size"):
        load_model(tmp_path)


def test_a_header_whose_length_begins_like_a_pickle_is_read() -> None:
    model = initial_model(CONFIG, seed=3)
    data = weights_to_bytes(model.state_dict())
    length = int.from_bytes(data[:8], "little")
    wanted = -(-(length - 0x280) // 0x10000) * 0x10000 + 0x280  # the next length with low bytes 80 02
    padded = wanted.to_bytes(8, "little") + data[8 : 8 + length].ljust(wanted) + data[8 + length :]
    assert padded[:2] == b"\x80\x02"
    load_weights(initial_model(CONFIG, seed=4), padded)
