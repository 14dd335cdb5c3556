"""The learner's tensors out of what trainers save."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from superbatch.checkpoints import learner_weights, select_weights
from superbatch.checkpoints.names import plain_name
from superbatch.formats.errors import InvalidInput

State = dict[str, Tensor]


class Towers(nn.Module):
    """Two towers with a tied weight, a buffer of integers, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.image = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.text = nn.Linear(3, 4)
        self.text.weight = self.image[0].weight
        self.register_buffer("position_ids", torch.arange(5))


def state() -> State:
    return Towers().state_dict()


def same(content: bytes, wanted: State) -> None:
    found = load(content)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_a_model_its_state_dict_and_what_wrappers_make_of_it_give_the_same_bytes() -> None:
    model = Towers()
    wanted = learner_weights(model)
    same(wanted, state())
    reversed_state = OrderedDict(reversed(list(state().items())))
    wrapped = nn.ModuleDict({"module": model})
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in state().items()}
    sharded = {f"module._fsdp_wrapped_module.{name}": tensor for name, tensor in state().items()}
    for source in (state(), reversed_state, wrapped, compiled, sharded):
        assert learner_weights(source) == wanted


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("module.w", "w"),
        ("_orig_mod.module.module.w", "w"),
        ("visual._orig_mod.conv1.weight", "visual.conv1.weight"),
        ("layers.0._checkpoint_wrapped_module.weight", "layers.0.weight"),
        ("text.module.weight", "text.module.weight"),
        ("modules.w", "modules.w"),
        ("module", "module"),
    ],
)
def test_names_without_wrappers(name: str, plain: str) -> None:
    assert plain_name(name) == plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    same(learner_weights({"w": torch.ones(3, dtype=dtype)}), {"w": torch.ones(3, dtype=dtype)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.float8_e4m3fn])
def test_other_dtypes_are_refused_with_the_tensor_and_what_to_do(dtype: torch.dtype) -> None:
    with pytest.raises(InvalidInput, match=r"fp32, fp16 or bf16; got .* for 'w'.*Cast"):
        learner_weights({"w": torch.zeros(2).to(dtype)})


def test_views_and_tied_tensors_are_each_written_in_full() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "row": whole[1], "column": whole[:, 1], "flipped": whole.T}
    same(learner_weights(tensors), {name: tensor.clone() for name, tensor in tensors.items()})


def test_the_model_is_not_changed_and_gradients_are_no_matter() -> None:
    model = Towers()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    content = learner_weights(dict(model.named_parameters()))
    assert "text.bias" in load(content)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "net"])
def test_the_model_is_found_by_the_usual_names_and_the_rest_left_out(key: str) -> None:
    model = Towers()
    optimizer = torch.optim.AdamW(model.parameters())
    saved = {"epoch": 3, key: state(), "optimizer": optimizer.state_dict(), "scaler": {"scale": torch.ones(1)}}
    selected = select_weights(saved)
    assert selected.tensors.keys() == state().keys()
    assert selected.left_out == dict.fromkeys(("epoch", "optimizer", "scaler"), "not the model")


def test_an_average_may_be_chosen_by_its_key() -> None:
    other = {name: tensor + 1 for name, tensor in state().items()}
    same(learner_weights({"model": state(), "average": other}, key="average"), other)


@pytest.mark.parametrize(
    ("saved", "key", "said"),
    [
        ({"model": state(), "net": state()}, None, "any of which may be it"),
        ({"weights": state()}, None, r"no state dict by a known name.*entries with tensors: 'weights'"),
        ({"epoch": 1}, None, "entries with tensors: nothing"),
        ({"model": state()}, "ema", "got 'ema', entries with tensors: 'model'"),
        ([1, 2], None, "got list"),
        ({"module.w": torch.ones(1), "w": torch.ones(1)}, None, "'w' twice, once as 'w'"),
    ],
)
def test_what_holds_no_model_or_several_is_refused(saved: object, key: str | None, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        learner_weights(saved, key=key)  # type: ignore[arg-type]


def test_a_prefix_takes_one_part_of_a_module_and_says_what_stays() -> None:
    saved = {f"model.clip.module._orig_mod.{name}": tensor for name, tensor in state().items()}
    saved |= {"model.loss.scale": torch.ones(1), "log": "text"}  # type: ignore[dict-item]
    selected = select_weights(saved, prefix="model.clip.")
    assert selected.tensors.keys() == state().keys()
    assert selected.left_out == {"model.loss.scale": "outside 'model.clip.'", "log": "no tensor"}
    with pytest.raises(InvalidInput, match=r"got none under 'learner\.'"):
        select_weights(saved, prefix="learner.")
    assert select_weights({f"module.{name}": t for name, t in state().items()}, prefix="module.").left_out == {}


def test_a_shard_of_a_rank_and_a_tensor_without_memory_are_refused() -> None:
    class Shard(Tensor):
        def full_tensor(self) -> Tensor:
            return self

    with pytest.raises(InvalidInput, match=r"shard of this rank for 'w'.*full_state_dict"):
        learner_weights({"w": torch.ones(2).as_subclass(Shard)})
    with pytest.raises(InvalidInput, match="dense and in memory; got 'w' on meta"):
        learner_weights({"w": torch.ones(2, device="meta")})


def test_the_job_is_noted_and_the_bytes_stay_the_same() -> None:
    content = learner_weights(state(), job="job_1")
    assert b'"__metadata__":{"superbatch_job":"job_1"}' in content
    assert content == learner_weights(state(), job="job_1")


def test_files_of_torch_and_of_safetensors_are_read(tmp_path: Path) -> None:
    torch.save({"state_dict": state(), "epoch": 1}, tmp_path / "new.pt")
    torch.save(state(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file({f"module.{name}": tensor.clone() for name, tensor in state().items()}, tmp_path / "s.safetensors")
    for name in ("new.pt", "old.pt", "s.safetensors"):
        assert learner_weights(tmp_path / name) == learner_weights(state())


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_malicious_file_runs_nothing(tmp_path: Path) -> None:
    torch.save({"state_dict": state(), "x": Malicious(tmp_path / "made")}, tmp_path / "bad.pt")
    with pytest.raises(UnpicklingError):
        learner_weights(tmp_path / "bad.pt")
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "bad.pt", weights_only=False)
    assert (tmp_path / "made").exists(), "it would have"


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, superbatch.checkpoints, superbatch.checkpoints.convert, superbatch.checkpoints.watch; "
    code += "print(sorted({'torch', 'safetensors'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
