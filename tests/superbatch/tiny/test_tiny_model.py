from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from superbatch.tiny.config import TinyConfig
from superbatch.tiny.flops import forward_flops_per_example, image_forward_flops, text_forward_flops
from superbatch.tiny.loss import sigmoid_loss
from superbatch.tiny.model import TinyDualEncoder, initial_model
from tests.superbatch.tiny.made import CONFIG, some_rows


@pytest.fixture
def model() -> TinyDualEncoder:
    return initial_model(CONFIG, seed=3)


def test_both_towers_give_unit_vectors(model: TinyDualEncoder) -> None:
    for tower_BD in model(*some_rows(5)):
        assert tower_BD.shape == (5, CONFIG.width)
        torch.testing.assert_close(tower_BD.norm(dim=1), torch.ones(5))


def test_a_row_does_not_see_its_neighbours(model: TinyDualEncoder) -> None:
    pixels, tokens = some_rows(6)
    together = model(pixels, tokens)
    alone = model(pixels[2:3], tokens[2:3])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[2:3], b, rtol=0, atol=1e-5)


def test_training_and_inference_are_the_same_function(model: TinyDualEncoder) -> None:
    rows = some_rows(4)
    for a, b in zip(model.train()(*rows), model.eval()(*rows), strict=True):
        assert torch.equal(a, b)


def test_padding_adds_nothing_to_a_caption(model: TinyDualEncoder) -> None:
    short = torch.tensor([[5, 9, 7]])
    torch.testing.assert_close(
        model.encode_text(short), model.encode_text(functional.pad(short, (0, 3))), rtol=0, atol=1e-6
    )


def test_first_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, other = (initial_model(CONFIG, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["token_table.weight"], other["token_table.weight"])


def test_scale_and_bias_start_where_siglip_starts(model: TinyDualEncoder) -> None:
    assert model.logit_scale.item() == pytest.approx(10.0)
    assert model.logit_bias.item() == -10.0


def test_the_loss_of_two_rows_by_hand() -> None:
    rows = torch.eye(2)
    loss = sigmoid_loss(rows, rows, torch.tensor(10.0), torch.tensor(-10.0))
    # Each row: its own logit is 10 - 10 = 0, the other's is -10.
    assert loss.item() == pytest.approx(math.log(2.0) + math.log1p(math.exp(-10.0)))


def test_the_loss_is_the_plain_double_sum() -> None:
    image_BD, text_BD = functional.normalize(torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(2)), dim=-1)
    scale, bias = 12.0, -3.0
    total = 0.0
    for i in range(7):
        for j in range(7):
            logit = scale * float(image_BD[i] @ text_BD[j]) + bias
            total += math.log1p(math.exp(-logit if i == j else logit))
    assert sigmoid_loss(image_BD, text_BD, torch.tensor(scale), torch.tensor(bias)).item() == pytest.approx(
        total / 7, rel=1e-5
    )


def test_a_few_steps_learn_eight_pairs(model: TinyDualEncoder) -> None:
    pixels, tokens = some_rows(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        image_BD, text_BD = model(pixels, tokens)
        loss = sigmoid_loss(image_BD, text_BD, model.logit_scale, model.logit_bias)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert (image_BD @ text_BD.T).argmax(dim=1).tolist() == list(range(8))


@pytest.mark.parametrize(
    "config", [CONFIG, TinyConfig(), TinyConfig(image_size=48, patch_size=6, image_channels=(16, 24, 32), width=10)]
)
def test_flops_are_those_that_torch_counts(config: TinyConfig) -> None:
    model = initial_model(config, seed=1)
    pixels = torch.zeros((3, 3, config.image_size, config.image_size), dtype=torch.uint8)
    tokens = torch.ones((3, config.context_length), dtype=torch.int64)
    counted = []
    for tower, rows in ((model.encode_image, pixels), (model.encode_text, tokens)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            tower(rows)
        counted.append(counter.get_total_flops() / 3)
    assert counted == [image_forward_flops(config), text_forward_flops(config)]
    assert sum(counted) == forward_flops_per_example(config)
