"""FLOPs and parameters from sizes: by hand for a toy, and against what open_clip publishes for its models."""

from __future__ import annotations

import pytest

from superbatch.selection.cost.architecture import Architecture, Blocks, ImageTower, TextTower
from superbatch.selection.cost.errors import InvalidPlan
from superbatch.selection.cost.presets import ARCHITECTURES, DEVICES, find_architecture, find_device
from superbatch.selection.cost.workload import Model

PUBLISHED = {
    "ViT-B-32": (8.82, 5.96, 151.28),
    "ViT-B-16": (35.13, 5.96, 149.62),
    "ViT-L-16": (123.11, 13.3, 427.74),
    "ViT-L-14": (162.03, 13.3, 427.62),
    "ViT-L-14-336": (381.92, 13.3, 427.94),
    "ViT-H-14": (334.59, 47.09, 986.11),
    "ViT-B-16-SigLIP": (35.42, 11.02, 203.16),
    "ViT-B-16-SigLIP-256": (46.82, 11.02, 203.2),
    "ViT-B-16-SigLIP-384": (112.13, 11.02, 203.45),
    "ViT-L-16-SigLIP-256": (162.56, 39.06, 652.15),
    "ViT-L-16-SigLIP-384": (383.85, 39.06, 652.48),
    "ViT-SO400M-14-SigLIP": (220.35, 13.19, 877.36),
    "ViT-SO400M-14-SigLIP-384": (670.35, 53.13, 877.96),
}
"""image_gflops, text_gflops, mparams of docs/model_profile.csv in github.com/mlfoundations/open_clip (commit 3b37473),
measured there with a profiler; 2 FLOPs for each multiply-add."""

ROUNDING = 0.005 + 1e-9
"""They are printed with two decimals."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_flops_and_parameters_are_those_that_open_clip_publishes(name: str) -> None:
    architecture = ARCHITECTURES[name]
    image, text, parameters = PUBLISHED[name]
    assert architecture.image_forward_flops / 1e9 == pytest.approx(image, abs=ROUNDING)
    assert architecture.text_forward_flops / 1e9 == pytest.approx(text, abs=ROUNDING)
    assert architecture.parameters / 1e6 == pytest.approx(parameters, abs=ROUNDING)


def test_a_toy_is_counted_by_hand() -> None:
    """4 x 4 pixels, patches of 2: 4 patches of 12 numbers. W = 2, H = 3, one layer; D = 5."""
    blocks = Blocks(width=2, layers=1, hidden=3)
    clip = ImageTower(side_pixels=4, patch_pixels=2, blocks=blocks, pooling="class_token")
    assert clip.tokens == 5
    # patches 4*12*2; attention products 4*5*4, scores and sums 2*25*2, hidden layer 2*5*6; projection 2*5
    assert clip.multiply_adds(5) == 96 + (80 + 100 + 60) + 10
    siglip = ImageTower(side_pixels=4, patch_pixels=2, blocks=blocks, pooling="attention")
    assert siglip.tokens == 4
    # head: keys and values 2*4*4, query and output 2*4, scores and sums 2*4*2, hidden layer 2*6
    assert siglip.multiply_adds(2) == 96 + (64 + 64 + 48) + (32 + 8 + 16 + 12)
    text = TextTower(tokens=3, vocabulary=7, blocks=blocks)
    assert text.multiply_adds(5) == (48 + 36 + 36) + 10
    both = Architecture(clip, text, embedding_width=5)
    assert both.forward_flops == 2 * (346 + 130)


def test_twice_the_patch_is_a_quarter_of_the_tokens() -> None:
    coarse = ARCHITECTURES["ViT-B-16-SigLIP-256"].with_patch(32)
    assert (coarse.image.tokens, coarse.text.tokens) == (64, 64)
    assert coarse.text_forward_flops == ARCHITECTURES["ViT-B-16-SigLIP-256"].text_forward_flops


def test_the_paper_s_cost_of_a_low_resolution_pass_comes_with_short_captions() -> None:
    """0.28 is what the formula gives, to the digit printed, for an image tower beside 16 tokens of text or fewer."""
    fine = ARCHITECTURES["ViT-B-16-SigLIP-256"]
    share = {}
    for tokens in (0, 16, 64):
        text_flops = 2 * fine.text.blocks.multiply_adds(tokens)
        coarse_image = fine.with_patch(32).image_forward_flops
        share[tokens] = (coarse_image + text_flops) / (fine.image_forward_flops + text_flops)
    assert share[0] < 0.28 < share[16] < 0.29
    assert share[64] == pytest.approx(0.389, abs=1e-3)


def test_a_model_takes_its_figures_from_its_architecture() -> None:
    model = Model.of_architecture(*find_architecture("vit-b-32"))
    assert (model.name, model.width) == ("ViT-B-32", 512)
    assert model.forward_flops == ARCHITECTURES["ViT-B-32"].forward_flops
    assert model.checkpoint_bytes == 4 * ARCHITECTURES["ViT-B-32"].parameters


def test_names_are_found_in_any_case_and_unknown_ones_are_refused_with_the_list() -> None:
    assert find_device("rtx-4090")[0] == "RTX-4090"
    with pytest.raises(InvalidPlan, match=r"one of ViT-B-32, .*; got 'ViT-B-17' \(did you mean ViT-B-16\?\)"):
        find_architecture("ViT-B-17")
    with pytest.raises(InvalidPlan, match=r"one of H100, .*CPU-core; got 'TPU'"):
        find_device("TPU")


def test_devices_have_the_dense_peaks_of_their_makers() -> None:
    """Not the doubled figures with sparsity."""
    peaks = {name: next(iter(device.peak_flops_per_s.values())) / 1e12 for name, device in DEVICES.items()}
    watts = {name: device.watts for name, device in DEVICES.items()}
    assert peaks["H100"] == peaks["H200"] == 989
    assert (peaks["A100"], peaks["RTX-4090"]) == (312, 165)
    assert (watts["H100"], watts["H200"], watts["A100"], watts["RTX-4090"]) == (700, 700, 400, 450)
