"""The law of `DualEncoder`, for every family and dtype."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.tiny.config import TinyConfig
from superbatch.tiny.flops import forward_flops_per_example
from superbatch.tiny.model import initial_model
from superbatch.tiny.picture import BadRow
from superbatch.tiny.weights import load_model, save_weights
from superbatch_server.encoders.protocol import MAX_NORM_ERROR, DualEncoder, PreparedRow
from superbatch_server.encoders.registry import load_encoder
from tests.encoders.made import a_pair, an_encoder, model_files
from tests.superbatch.tiny.made import CONFIG


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder(dtype: str, tmp_path: Path) -> DualEncoder:
    return an_encoder(tmp_path, dtype=dtype)


def some_rows(encoder: DualEncoder, count: int) -> list[PreparedRow]:
    return [encoder.prepare(*a_pair(seed)) for seed in range(count)]


def test_the_same_rows_at_the_same_positions_give_the_same_bits(encoder: DualEncoder) -> None:
    rows = some_rows(encoder, 8)
    first, second = encoder.encode(rows), encoder.encode(rows)
    assert first.image_BD.tobytes() == second.image_BD.tobytes()
    assert first.text_BD.tobytes() == second.text_BD.tobytes()


def test_another_process_gives_the_same_bits(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.encoders.made import a_pair, an_encoder;"
        "e = an_encoder(Path(sys.argv[1])); out = e.encode([e.prepare(*a_pair(s)) for s in range(8)]);"
        "sys.stdout.buffer.write(out.image_BD.tobytes() + out.text_BD.tobytes())"
    )
    encoder = an_encoder(tmp_path / "here")
    here = encoder.encode(some_rows(encoder, 8))
    there = subprocess.run([sys.executable, "-c", script, str(tmp_path / "there")], check=True, capture_output=True)
    assert there.stdout == here.image_BD.tobytes() + here.text_BD.tobytes()


def test_neighbours_change_the_last_bits_at_most(encoder: DualEncoder, dtype: str) -> None:
    limit = {"float32": 1e-6, "bfloat16": 2e-2}[dtype]
    rows = some_rows(encoder, 8)
    together, reordered, alone = encoder.encode(rows), encoder.encode(rows[::-1]), encoder.encode(rows[:1])
    for name in ("image_BD", "text_BD"):
        tower_BD = getattr(together, name)
        assert np.abs(tower_BD - getattr(reordered, name)[::-1]).max() <= limit
        assert np.abs(tower_BD[:1] - getattr(alone, name)).max() <= limit


def test_embeddings_are_fp32_unit_vectors_of_the_stated_width(encoder: DualEncoder) -> None:
    embeddings = encoder.encode([*some_rows(encoder, 7), encoder.blank()])
    assert len(embeddings) == 8
    for tower_BD in (embeddings.image_BD, embeddings.text_BD):
        assert tower_BD.dtype == np.float32
        assert tower_BD.shape == (8, encoder.width)
        assert np.abs(np.linalg.norm(tower_BD, axis=1) - 1).max() < MAX_NORM_ERROR


def test_preparing_is_deterministic_and_small(encoder: DualEncoder) -> None:
    first, second = (encoder.prepare(*a_pair(1)) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.text.tobytes() == second.text.tobytes()
    assert (str(first.image.dtype), str(first.text.dtype)) == ("uint8", "int64")
    assert (first.image.shape, first.text.shape) == (encoder.blank().image.shape, encoder.blank().text.shape)


@settings(max_examples=100, deadline=None)
@given(a=st.none() | st.binary(max_size=80), b=st.none() | st.binary(max_size=20))
def test_prepare_raises_nothing_but_bad_row(encoder_once: DualEncoder, a: bytes | None, b: bytes | None) -> None:
    with pytest.raises(BadRow):
        encoder_once.prepare(a, b)


@pytest.fixture(scope="module")
def encoder_once(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    return an_encoder(tmp_path_factory.mktemp("model"))


def test_it_agrees_with_the_model_that_was_trained(tmp_path: Path) -> None:
    encoder = an_encoder(tmp_path)
    model, _ = load_model(tmp_path)
    rows = some_rows(encoder, 4)
    pixels = torch.from_numpy(np.stack([row.image for row in rows]))
    tokens = torch.from_numpy(np.stack([row.text for row in rows]))
    with torch.inference_mode():
        image_BD, text_BD = model(pixels, tokens)
    embeddings = encoder.encode(rows)
    np.testing.assert_array_equal(embeddings.image_BD, image_BD.numpy())
    np.testing.assert_array_equal(embeddings.text_BD, text_BD.numpy())
    assert encoder.logit_scale == pytest.approx(model.logit_scale.item(), rel=1e-6)
    assert encoder.logit_bias == model.logit_bias.item()
    assert encoder.forward_flops_per_example == forward_flops_per_example(CONFIG)


def test_scale_and_bias_are_not_rounded_by_the_dtype(tmp_path: Path) -> None:
    full, half = (an_encoder(tmp_path, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert (half.logit_scale, half.logit_bias) == (full.logit_scale, full.logit_bias)


@pytest.mark.parametrize("factor", [0.0, 1e30])
def test_outputs_without_a_direction_are_nan_and_never_repaired(tmp_path: Path, factor: float) -> None:
    files = model_files(tmp_path)
    state = initial_model(CONFIG, seed=3).state_dict()
    for name in ("text_tower.3.weight", "text_tower.3.bias"):
        state[name] *= factor
    save_weights(files["weights"], state)
    encoder = load_encoder("tiny", files, threads=1)
    embeddings = encoder.encode(some_rows(encoder, 3))
    assert np.isnan(embeddings.text_BD).all()
    assert np.isfinite(embeddings.image_BD).all()


def test_the_digest_covers_every_file(tmp_path: Path) -> None:
    digests = {an_encoder(tmp_path).digest, load_encoder("tiny", model_files(tmp_path, seed=4), threads=1).digest}
    files = model_files(tmp_path)
    files["config"].write_bytes(json.dumps(json.loads(TinyConfig.load(files["config"]).to_bytes())).encode())
    digests.add(load_encoder("tiny", files, threads=1).digest)
    files = model_files(tmp_path)
    files["tokenizer"].write_bytes(json.dumps(json.loads(files["tokenizer"].read_bytes()), indent=1).encode())
    digests.add(load_encoder("tiny", files, threads=1).digest)
    assert len(digests) == 4
    assert an_encoder(tmp_path).digest in digests
    assert all(len(digest) == 64 for digest in digests)
