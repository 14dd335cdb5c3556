from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from superbatch.formats.errors import InvalidInput
from superbatch_server.encoders.microbatch import encode_padded
from superbatch_server.encoders.protocol import Embeddings, PreparedRow
from tests.encoders.made import a_pair, an_encoder


class Counting:
    """An encoder whose vectors say which row it was given and how many rows came with it."""

    digest, width, logit_scale, logit_bias, forward_flops_per_example = "0" * 64, 2, 1.0, 0.0, 1.0

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def prepare(self, a: bytes | None, b: bytes | None) -> PreparedRow:
        return PreparedRow(image=np.array([int(a or b"0")], dtype=np.uint8), text=np.zeros(1, dtype=np.int64))

    def blank(self) -> PreparedRow:
        return self.prepare(b"255", None)

    def encode(self, rows: Sequence[PreparedRow]) -> Embeddings:
        self.sizes.append(len(rows))
        image_BD = np.array([[row.image[0], len(rows)] for row in rows], dtype=np.float32)
        return Embeddings(image_BD=image_BD, text_BD=-image_BD)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 9])
def test_every_forward_has_the_same_size_and_padding_is_dropped(count: int) -> None:
    encoder = Counting()
    rows = [encoder.prepare(str(i).encode(), None) for i in range(count)]
    embeddings = encode_padded(encoder, rows, micro_batch=4)
    assert embeddings.image_BD[:, 0].tolist() == list(range(count))
    assert embeddings.text_BD.shape == (count, 2)
    assert encoder.sizes == [4] * ((count + 3) // 4)


def test_bits_of_a_row_do_not_depend_on_what_comes_after_its_micro_batch(tmp_path: Path) -> None:
    encoder = an_encoder(tmp_path)
    rows = [encoder.prepare(*a_pair(seed)) for seed in range(11)]
    whole = encode_padded(encoder, rows, micro_batch=4)
    first = encode_padded(encoder, rows[:8], micro_batch=4)
    assert whole.image_BD[:8].tobytes() == first.image_BD.tobytes()
    assert whole.text_BD[:8].tobytes() == first.text_BD.tobytes()


def test_a_micro_batch_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="micro_batch must be at least 1; got 0"):
        encode_padded(Counting(), [], micro_batch=0)
