from __future__ import annotations

import json
from pathlib import Path

import pytest

from superbatch.formats.errors import InvalidInput
from superbatch_server.training.held_out import read_held_out
from tests.encoders.made import a_pair, an_encoder
from tests.training.made import CONCEPTS, write_test_split


def test_rows_come_in_order_with_their_concepts_and_bad_ones_are_counted(tmp_path: Path) -> None:
    write_test_split(tmp_path / "data")
    held_out = read_held_out(tmp_path / "data", an_encoder(tmp_path / "model"))
    assert held_out.captions == [a_pair(row)[1].decode() for row in (0, 1, 2, 4, 5, 6, 7, 8, 9)]
    assert held_out.concept == [0, 1, None, None, 2, 0, None, None, None]
    assert held_out.concepts == CONCEPTS
    assert held_out.bad_rows == {"empty_caption": 1}
    assert len(held_out.rows) == 9


def test_a_folder_without_test_tars_is_refused(tmp_path: Path) -> None:
    write_test_split(tmp_path / "data")
    for path in (tmp_path / "data").glob("test-*.tar"):
        path.unlink()
    with pytest.raises(InvalidInput, match=r"test-\*.tar"):
        read_held_out(tmp_path / "data", an_encoder(tmp_path / "model"))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"classes": 3, "class_of_key": {}}', json.dumps({"classes": ["a"], "class_of_key": {"x": 1}})],
)
def test_concepts_that_cannot_be_read_are_refused(tmp_path: Path, content: str) -> None:
    write_test_split(tmp_path / "data")
    (tmp_path / "data" / "concepts.json").write_text(content)
    with pytest.raises(InvalidInput, match="class"):
        read_held_out(tmp_path / "data", an_encoder(tmp_path / "model"))


def test_a_missing_concepts_file_is_refused(tmp_path: Path) -> None:
    write_test_split(tmp_path / "data")
    (tmp_path / "data" / "concepts.json").unlink()
    with pytest.raises(InvalidInput, match=r"concepts\.json"):
        read_held_out(tmp_path / "data", an_encoder(tmp_path / "model"))
