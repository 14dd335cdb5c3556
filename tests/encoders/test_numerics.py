from __future__ import annotations

import dataclasses

import pytest
import torch

from superbatch.formats.errors import InvalidInput
from superbatch_server.encoders.numerics import NumericsProfile, local_profile

PROFILE = NumericsProfile("2.13.0+cpu", "cpu AVX512", "float32", 1, 2, 64)


def test_the_digest_of_a_profile_never_changes() -> None:
    assert PROFILE.to_json() == (
        '{"composer_threads":2,"device":"cpu AVX512","dtype":"float32","micro_batch":64,"threads_per_worker":1,'
        '"torch_version":"2.13.0+cpu"}'
    )
    assert PROFILE.digest() == "10deebfd6a69e5379040011c23f7b795d9a8b963ec49b71f284a2eebf4c7338b"


def test_a_profile_survives_json() -> None:
    assert NumericsProfile.from_json(PROFILE.to_json()) == PROFILE


@pytest.mark.parametrize(
    "change",
    [
        {"torch_version": "2.14.0"},
        {"device": "cuda NVIDIA H200"},
        {"dtype": "bfloat16"},
        {"threads_per_worker": 3},
        {"composer_threads": 3},
        {"micro_batch": 32},
    ],
)
def test_every_field_counts(change: dict[str, str | int]) -> None:
    assert dataclasses.replace(PROFILE, **change).digest() != PROFILE.digest()  # type: ignore[arg-type]


def test_the_local_profile_names_torch_and_the_instruction_set() -> None:
    profile = local_profile(threads_per_worker=1, composer_threads=2, micro_batch=64)
    assert profile.torch_version == torch.__version__
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    has_bf16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    assert profile.device == f"cpu {torch.backends.cpu.get_cpu_capability()}" + (" BF16" if has_bf16 else "")
    assert profile.dtype == "float32"


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(InvalidInput, match="micro_batch"):
        local_profile(threads_per_worker=1, composer_threads=2, micro_batch=0)


def test_json_that_is_no_profile_is_refused() -> None:
    for text in ("{}", "[]", "x", '{"torch_version":1}'):
        with pytest.raises(InvalidInput):
            NumericsProfile.from_json(text)
