from __future__ import annotations

import json

import pytest

from superbatch.tiny.config import InvalidConfig, TinyConfig


def test_a_config_survives_its_file() -> None:
    config = TinyConfig(image_size=64, patch_size=8, image_channels=(16, 32, 64), width=48)
    assert TinyConfig.from_bytes(config.to_bytes()) == config


def test_the_file_names_the_architecture() -> None:
    assert json.loads(TinyConfig().to_bytes())["architecture"] == "superbatch-tiny-v1"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 3}, "depth"),
        ({"width": None}, "width"),
        ({"width": True}, "width"),
        ({"width": 1.5}, "width"),
        ({"width": 0}, "width"),
        ({"width": 1 << 20}, "width"),
        ({"architecture": "clip"}, "architecture"),
        ({"image_channels": []}, "image_channels"),
        ({"image_channels": [8, "x"]}, "image_channels"),
        ({"image_channels": [12]}, "image_channels"),
        ({"image_channels": 8}, "image_channels"),
        ({"image_size": 36}, "image_size"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, object], named: str) -> None:
    document = json.loads(TinyConfig().to_bytes()) | change
    with pytest.raises(InvalidConfig, match=named):
        TinyConfig.from_bytes(json.dumps(document).encode())


def test_a_missing_key_is_named() -> None:
    document = json.loads(TinyConfig().to_bytes())
    del document["context_length"]
    with pytest.raises(InvalidConfig, match="context_length"):
        TinyConfig.from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"null"])
def test_a_file_that_is_no_config_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidConfig):
        TinyConfig.from_bytes(data)
