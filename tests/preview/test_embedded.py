"""Files of embeddings: what is read from them, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from superbatch.formats.errors import InvalidInput
from superbatch.selection import InvalidEmbeddings
from superbatch_server.preview.embedded import MODELS, drawn_sample, read_embeddings, row_uid, write_embeddings
from tests.preview.made import arrays, npz

BOTH = list(MODELS)


def test_an_npz_gives_rows_scales_and_biases(tmp_path: Path) -> None:
    held = arrays()
    sample = read_embeddings(npz(tmp_path), models=BOTH, needs_bias=True)
    assert sample.learner is not None
    assert sample.reference is not None
    assert (sample.source, len(sample)) == ("embeddings.npz", 60)
    assert np.array_equal(sample.learner.image.numpy(), held["learner_image"])
    assert np.array_equal(sample.reference.text.numpy(), held["reference_text"])
    assert (sample.learner.logit_scale, sample.reference.logit_scale) == (20.0, 40.0)
    assert sample.learner.logit_bias == -10.0
    assert bytes(sample.uid[3]) == row_uid(3)


def test_safetensors_in_bf16_give_the_same_rows(tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(np.atleast_1d(array)) for name, array in arrays(widths=(256, 256)).items()}
    # At this width rounding to bf16 moves a norm by less than the 2e-3 that selection takes.
    half = {name: tensor.bfloat16() if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}
    save_file(half, tmp_path / "e.safetensors")
    sample = read_embeddings(tmp_path / "e.safetensors", models=BOTH, needs_bias=True)
    assert sample.learner is not None
    assert torch.equal(sample.learner.image, tensors["learner_image"].bfloat16())


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    uid = np.random.default_rng(1).integers(0, 256, (60, 16), dtype=np.uint8)
    sample = read_embeddings(npz(tmp_path, {"uid": uid}), models=BOTH, needs_bias=True)
    write_embeddings(tmp_path / "again" / "written.npz", sample)
    again = read_embeddings(tmp_path / "again" / "written.npz", models=BOTH, needs_bias=True)
    assert np.array_equal(again.uid, uid)
    for name in MODELS:
        before, after = sample.model(name), again.model(name)
        assert before is not None
        assert after is not None
        assert torch.equal(before.image, after.image)
        assert torch.equal(before.text, after.text)
        assert (before.logit_scale, before.logit_bias) == (after.logit_scale, after.logit_bias)


def test_only_the_models_that_are_asked_for_must_be_there(tmp_path: Path) -> None:
    path = npz(tmp_path, without=("learner_image", "learner_text", "learner_logit_scale"))
    sample = read_embeddings(path, models=["reference"], needs_bias=True)
    assert sample.learner is None
    assert sample.reference is not None


def test_a_bias_may_be_missing_under_softmax_only(tmp_path: Path) -> None:
    path = npz(tmp_path, without=("learner_logit_bias", "reference_logit_bias"))
    sample = read_embeddings(path, models=BOTH, needs_bias=False)
    assert sample.learner is not None
    assert sample.learner.logit_bias == 0.0
    with pytest.raises(InvalidInput, match="must hold the array learner_logit_bias"):
        read_embeddings(path, models=BOTH, needs_bias=True)


LONG = arrays(61)
NAN = arrays()["learner_text"].copy()
NAN[7, 2] = np.nan


@pytest.mark.parametrize(
    ("changed", "without", "error", "message"),
    [
        ({}, ("reference_text",), InvalidInput, "must hold the array reference_text; got learner_image, "),
        ({"learner_text": arrays(widths=(5, 5))["learner_text"]}, (), InvalidInput, "of one type and width"),
        ({"learner_text": arrays(dtype="f2")["learner_text"]}, (), InvalidInput, "of one type and width"),
        ({name: LONG[name] for name in ("learner_image", "learner_text")}, (), InvalidInput, r"\(61, 61\)"),
        ({"learner_text": LONG["learner_text"]}, (), InvalidInput, r"\(60, 61\)"),
        ({"learner_image": np.ones(60, dtype="f4")}, (), InvalidInput, r"float array \[M, D\]"),
        ({"learner_image": np.ones((60, 8), dtype=np.int64)}, (), InvalidInput, "float array"),
        ({"learner_logit_scale": np.array(0.0)}, (), InvalidInput, "above 0 and finite; got 0.0"),
        ({"learner_logit_scale": np.array(np.nan)}, (), InvalidInput, "above 0 and finite; got nan"),
        ({"learner_logit_scale": np.ones(2)}, (), InvalidInput, "must be one number"),
        ({"reference_logit_bias": np.array(np.inf)}, (), InvalidInput, "bias must be finite; got inf"),
        ({"uid": np.zeros((60, 8), dtype=np.uint8)}, (), InvalidInput, r"uid must be uint8 \[60, 16\]"),
        ({"learner_text": NAN}, (), InvalidEmbeddings, "got nan .learner, text tower, row 7"),
        ({"reference_image": 2 * arrays()["reference_image"]}, (), InvalidEmbeddings, "length 1 .* reference, image"),
    ],
)
def test_what_a_file_must_not_hold_is_named(
    tmp_path: Path, changed: dict[str, np.ndarray], without: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message.replace("length 1 .* reference", "length 1 within .*reference")):
        read_embeddings(npz(tmp_path, changed, without=without), models=BOTH, needs_bias=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.npz", b"no zip", "must be a .npz file of plain arrays"),
        ("e.safetensors", b"no header", "must be a .safetensors file of plain arrays"),
        ("e.pt", b"", "must be a file .npz or .safetensors"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        read_embeddings(tmp_path / name, models=BOTH, needs_bias=True)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        read_embeddings(tmp_path / "none.npz", models=BOTH, needs_bias=True)


def test_a_pickle_in_an_npz_is_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", **{**arrays(), "learner_image": np.array([object()])})
    with pytest.raises(InvalidInput, match="Object arrays cannot be loaded"):
        read_embeddings(tmp_path / "e.npz", models=BOTH, needs_bias=True)


def test_one_content_is_drawn_once_and_every_row_left_out_is_counted(tmp_path: Path) -> None:
    uid = np.random.default_rng(1).integers(0, 256, (60, 16), dtype=np.uint8)
    uid[50:55] = uid[0]
    sample = read_embeddings(npz(tmp_path, {"uid": uid}), models=BOTH, needs_bias=True)
    drawn = drawn_sample(sample, num_rows=40)
    assert len(np.unique(drawn.uid, axis=0)) == len(drawn) == 40
    assert not set(range(50, 55)) & set(drawn.row.tolist())
    assert dict(drawn.num_left_out) == {"content of another row": 5, "not drawn": 15}
    assert np.array_equal(drawn_sample(sample, num_rows=40).row, drawn.row)


def test_a_drawn_row_keeps_its_embeddings(tmp_path: Path) -> None:
    sample = read_embeddings(npz(tmp_path), models=BOTH, needs_bias=True)
    drawn = drawn_sample(sample, num_rows=10)
    assert drawn.reference is not None
    assert np.array_equal(drawn.reference.text.numpy(), arrays()["reference_text"][drawn.row])
    assert np.array_equal(drawn.uid, sample.uid[drawn.row])
