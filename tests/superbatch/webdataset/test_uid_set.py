"""DataComp's subset file, as NumPy reads it."""

from __future__ import annotations

import io

import numpy as np
import pytest

from superbatch.formats.errors import InvalidInput
from superbatch.webdataset.uid_set import write_uid_set


def written(uids: list[bytes]) -> bytes:
    out = io.BytesIO()
    assert write_uid_set(out, uids) == len(set(uids))
    return out.getvalue()


def test_the_file_is_what_numpy_writes_for_datacomp() -> None:
    uids = [bytes([first]) + bytes(range(1, 16)) for first in (9, 200, 9, 3)]
    # DataComp: both halves of the 32 hexadecimal digits as numbers, in the dtype u8,u8, sorted.
    pairs = [(int(uid.hex()[:16], 16), int(uid.hex()[16:], 16)) for uid in set(uids)]
    theirs = io.BytesIO()
    np.save(theirs, np.sort(np.array(pairs, dtype=np.dtype("u8,u8"))))

    assert written(uids) == theirs.getvalue()


@pytest.mark.parametrize("num_uids", [0, 1, 1000])
def test_the_set_is_sorted_without_repetitions(num_uids: int) -> None:
    rng = np.random.default_rng(0)
    uids = [rng.bytes(16) for _ in range(num_uids)]
    found = np.load(io.BytesIO(written(uids * 2)))

    assert found.dtype == np.dtype("u8,u8")
    assert found.shape == (num_uids,)
    assert [f"{first:016x}{last:016x}" for first, last in found.tolist()] == sorted(uid.hex() for uid in uids)


def test_a_uid_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidInput, match="16 bytes"):
        write_uid_set(io.BytesIO(), [b"short"])
