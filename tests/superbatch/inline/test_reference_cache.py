"""A cache that a user builds from any model: what goes in comes out, by uid and by number, and gaps are named."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superbatch.formats.errors import InvalidInput, UnsupportedVersion
from superbatch.inline import CachePart, MissingEmbeddings, ReferenceCache
from superbatch.inline.key_index import ABSENT, KeyIndex, uid_keys, write_key_index
from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection
from tests.superbatch.selection import made

M, D = 50, 12
RNG = np.random.default_rng(1)
UIDS = RNG.integers(0, 256, (M, 16), dtype=np.uint8)
INDEX = RNG.permutation(10_000)[:M]
MODEL = made.model(RNG, M, D, scale=37.123456789, bias=-9.75, dtype=torch.float32)


def parts(*, sizes: tuple[int, ...] = (20, 0, 30), with_index: bool = True, **changes: Any) -> Iterator[CachePart]:
    """The rows in parts; `changes` replace fields of the last one."""
    stops = np.cumsum(sizes)
    for number, (size, stop) in enumerate(zip(sizes, stops, strict=True)):
        rows = slice(stop - size, stop)
        given = {"uids": UIDS[rows], "image": MODEL.image[rows], "text": MODEL.text[rows]}
        given |= {"dataset_index": INDEX[rows]} if with_index else {}
        yield CachePart(**(given | (changes if number == len(sizes) - 1 else {})))  # type: ignore[arg-type]


def build(folder: Path, **changes: Any) -> ReferenceCache:
    return ReferenceCache.build(
        folder, parts(**changes), logit_scale=MODEL.logit_scale, logit_bias=MODEL.logit_bias, source="a model"
    )


def test_rows_come_back_by_uid_and_by_number_in_the_order_asked_for(tmp_path: Path) -> None:
    build(tmp_path / "cache")
    cache = ReferenceCache.open(tmp_path / "cache")
    assert (len(cache), cache.width, cache.source) == (M, D, "a model")
    assert (cache.logit_scale, cache.logit_bias) == (MODEL.logit_scale, MODEL.logit_bias), "to the last bit"
    wanted = RNG.permutation(M)[:31]
    for found in (cache.take(UIDS[wanted]), cache.take_indices(torch.from_numpy(INDEX[wanted]))):
        assert found.image.dtype == torch.float32
        assert torch.equal(found.image, MODEL.image[wanted].half().float())
        assert torch.equal(found.text, MODEL.text[wanted].half().float())
        assert (found.logit_scale, found.logit_bias) == (MODEL.logit_scale, MODEL.logit_bias)


def test_missing_rows_are_named_and_may_be_asked_for_before(tmp_path: Path) -> None:
    cache = build(tmp_path / "cache")
    strangers = np.random.default_rng(2).integers(0, 256, (7, 16), dtype=np.uint8)
    mixed = np.concatenate([UIDS[:2], strangers, UIDS[2:4]])
    assert cache.holds(mixed).tolist() == [True] * 2 + [False] * 7 + [True] * 2
    with pytest.raises(
        MissingEmbeddings, match=f"cache of 50 rows lacks 7 of 11: uid {strangers[0].tobytes().hex()}"
    ) as raised:
        cache.take(mixed)
    assert raised.value.rows == list(range(2, 9))
    assert str(raised.value).count("uid ") == 5
    assert pickle.loads(pickle.dumps(raised.value)).rows == raised.value.rows
    with pytest.raises(MissingEmbeddings, match="lacks 1 of 2: row 10000"):
        cache.take_indices([int(INDEX[0]), 10_000])


def test_a_cache_by_uid_alone_says_so(tmp_path: Path) -> None:
    cache = build(tmp_path / "cache", with_index=False)
    assert torch.equal(cache.take(UIDS[3:4]).image, MODEL.image[3:4].half().float())
    with pytest.raises(InvalidInput, match="built by uid alone"):
        cache.take_indices([1])


def test_of_rows_with_one_uid_the_first_is_found(tmp_path: Path) -> None:
    uids = UIDS[20:].copy()
    uids[5] = UIDS[2]
    cache = build(tmp_path / "cache", uids=uids)
    assert torch.equal(cache.take(UIDS[2:3]).image, MODEL.image[2:3].half().float())


def bad_image(value: float) -> torch.Tensor:
    image = MODEL.image[20:].clone()
    image[4, 0] = value
    return image


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"image": bad_image(float("nan"))},
            InvalidEmbeddings,
            rf"image tower, part 2, row 4, uid {UIDS[24].tobytes().hex()}",
        ),
        ({"text": bad_image(2.0)}, InvalidEmbeddings, "length 1 within 0.002 in fp16; got 2.*text tower"),
        ({"image": MODEL.image[20:, :-1]}, InvalidEmbeddings, r"got image \[30, 11\], text \[30, 12\]"),
        (
            {"image": MODEL.image[20:, :-1], "text": MODEL.text[20:, :-1]},
            InvalidEmbeddings,
            r"text \[30, 11\] after D = 12 \(part 2\)",
        ),
        ({"uids": UIDS[21:]}, InvalidInput, "got 30 for 29 uids"),
        ({"uids": UIDS[20:, :8]}, InvalidSelection, r"got uint8 \[30, 8\]"),
        ({"dataset_index": INDEX[:3]}, InvalidInput, "one row of dataset_index per uid; got 3 for 30"),
        ({"dataset_index": None}, InvalidInput, "in every part or in none; got it in 2 of 3"),
        ({"sizes": ()}, InvalidInput, "at least one part"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_leave_nothing(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        build(tmp_path / "cache", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_replaces_nothing(tmp_path: Path) -> None:
    build(tmp_path / "cache")
    with pytest.raises(InvalidInput, match="to a folder that does not exist"):
        build(tmp_path / "cache")


def test_a_folder_without_a_cache_or_with_a_cut_or_later_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"folder with cache.json; got none"):
        ReferenceCache.open(tmp_path / "cache")
    build(tmp_path / "cache")
    text = tmp_path / "cache" / "text.f16"
    text.write_bytes(text.read_bytes()[: -2 * D])
    with pytest.raises(InvalidInput, match=r"50 rows of 12 fp16 numbers has 1200 bytes; got 1176"):
        ReferenceCache.open(tmp_path / "cache")
    head = tmp_path / "cache" / "cache.json"
    head.write_text(head.read_text().replace('"format_version":"1.0"', '"format_version":"2.0"'))
    with pytest.raises(UnsupportedVersion):
        ReferenceCache.open(tmp_path / "cache")


@given(
    keys=st.lists(st.binary(min_size=16, max_size=16), max_size=30),
    asked=st.lists(st.binary(min_size=16, max_size=16), max_size=10),
)
def test_keys_are_found_as_in_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, keys: list[bytes], asked: list[bytes]
) -> None:
    # Zero bytes at the end and bytes above 127 are where strings of numpy could go wrong.
    keys += [bytes(16), b"\xff" * 16, b"\x80" + bytes(15)]
    folder = tmp_path_factory.mktemp("keys")
    first = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)

    def array(some: list[bytes]) -> np.ndarray:
        return uid_keys(np.frombuffer(b"".join(some), dtype=np.uint8).reshape(len(some), 16))

    write_key_index(folder, "uid", array(keys))
    asked += [*keys, b"\xff" * 15 + b"\x00", b"\x80" * 16]
    assert KeyIndex(folder, "uid").rows_of(array(asked)).tolist() == [first.get(key, ABSENT) for key in asked]
