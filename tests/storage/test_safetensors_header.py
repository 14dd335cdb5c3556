"""The header of a weights file: what is let in, and what is refused by name."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch_server.schemas.errors import NotSafetensors, PickleRefused
from superbatch_server.storage.safetensors_header import SafetensorsHeader, read_safetensors_header

W = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]}


def weights(header: Any, data_bytes: int = 26) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def read(content: bytes) -> SafetensorsHeader:
    return read_safetensors_header(io.BytesIO(content), size=len(content), where="root/weights")


def test_tensors_come_in_the_order_of_their_bytes() -> None:
    header = read(weights({"b": B, "w": W, "__metadata__": {"made": "by us"}}))
    assert [(tensor.name, tensor.shape, tensor.start, tensor.stop) for tensor in header.tensors] == [
        ("w", (2, 3), 0, 24),
        ("b", (), 24, 26),
    ]
    assert header.metadata == {"made": "by us"}


def test_the_real_library_writes_what_is_let_in() -> None:
    numpy = pytest.importorskip("numpy")
    save = pytest.importorskip("safetensors.numpy").save
    content = save({"w": numpy.zeros((3, 4), "float16"), "empty": numpy.zeros((0, 4), "int64"), "n": numpy.ones(1)})
    assert {tensor.name for tensor in read(content).tensors} == {"w", "empty", "n"}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "0 bytes in all"),
        (b"short", "5 bytes in all"),
        (struct.pack("<Q", 1 << 60) + b"{}", "header of 1152921504606846976 bytes"),
        (weights(b"{" + b" " * 10_000_000), "header of 10000001 bytes"),
        (weights(b"[1, 2]"), "begins with"),
        (weights(b"{not json"), "no JSON"),
        (weights(b'{"w": 1, "w": 2}'), "twice"),
        (weights({}, 0), "no tensor"),
        (weights({"w": W}, 25), "24 bytes and 25"),
        (weights({"w": W}, 23), "24 bytes and 23"),
        (weights({"w": W, "b": {**B, "data_offsets": [25, 27]}}, 27), "where 24 was due"),
        (weights({"w": W, "v": W}, 24), "where 24 was due"),
        (weights({"w": {**W, "dtype": "OBJECT"}}, 24), "OBJECT"),
        (weights({"w": {**W, "shape": [2, -3]}}, 24), "shape"),
        (weights({"w": {**W, "shape": [2, 4]}}, 24), "shape"),
        (weights({"w": {**W, "shape": [10**4000] * 300}}, 24), "shape"),  # a product that would take minutes
        (weights({"w": {**W, "shape": [2] * 65}}, 24), "shape"),
        (weights({"w": {**W, "data_offsets": [24, 0]}}, 24), "bytes"),
        (weights({"w": {"dtype": "F32"}}, 24), "without"),
        (weights({"w": W, "__metadata__": {"n": 1}}, 24), "metadata"),
        (weights(b"{" + b"[" * 100_000), "no JSON"),
    ],
)
def test_a_wrong_header_is_refused_with_what_is_wrong(content: bytes, what: str) -> None:
    with pytest.raises(NotSafetensors, match=r"safetensors.*root/weights") as refused:
        read(content)
    assert what in str(refused.value)


def test_a_pickle_and_a_zip_of_pickles_are_refused_by_name() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"w": 1}))
    for content in (pickle.dumps({"w": [1.0]}, protocol) for protocol in (2, 3, 4, 5)):
        with pytest.raises(PickleRefused):
            read(content + bytes(100))
    with pytest.raises(PickleRefused, match="save_file"):
        read(archive.getvalue())


def test_a_header_whose_length_looks_like_a_pickle_is_still_read() -> None:
    text = json.dumps({"w": W}).encode().ljust(0x0280)
    content = weights(text, 24)
    assert content.startswith(b"\x80\x02")
    assert read(content).tensors[0].name == "w"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    with pytest.raises((NotSafetensors, PickleRefused)):
        read(content)
