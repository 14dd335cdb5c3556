"""The shapes that the protocol states hold at run time; they are strings, resolved here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import jaxtyping
import numpy as np
import pytest
from beartype.door import is_bearable

from superbatch_server.encoders.microbatch import encode_padded
from superbatch_server.encoders.protocol import Embeddings, PreparedRow
from tests.encoders.made import a_pair, an_encoder

NAMES: dict[str, Any] = {name: getattr(jaxtyping, name) for name in ("Float32", "Int64", "UInt8")} | {"np": np}


def wrong_fields(value: object) -> list[str]:
    """Fields whose array has not the dtype and number of axes that the class states."""
    stated = get_type_hints(type(value), localns=NAMES)
    return [name for name, shape in stated.items() if not is_bearable(getattr(value, name), shape)]


def test_rows_and_embeddings_have_the_shapes_they_state(tmp_path: Path) -> None:
    encoder = an_encoder(tmp_path)
    rows = [encoder.prepare(*a_pair(1)), encoder.blank()]
    values = [
        *rows,
        encoder.encode(rows),
        encode_padded(encoder, rows, micro_batch=3),
        encode_padded(encoder, [], micro_batch=3),
    ]
    assert [wrong_fields(value) for value in values] == [[]] * 5


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_another_type_or_number_of_axes_is_caught(dtype: type) -> None:
    good = np.zeros((2, 3), dtype=np.float32)
    assert wrong_fields(Embeddings(image_BD=good.astype(dtype), text_BD=good[0])) == ["image_BD", "text_BD"]
    assert wrong_fields(PreparedRow(image=good, text=good)) == ["image", "text"]  # type: ignore[arg-type]
