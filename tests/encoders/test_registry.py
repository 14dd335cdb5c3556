from __future__ import annotations

from pathlib import Path

import pytest

from superbatch.formats.errors import InvalidInput
from superbatch_server.encoders.registry import families, load_encoder
from tests.encoders.made import model_files


def test_a_family_is_found_by_name(tmp_path: Path) -> None:
    assert families() == ["tiny"]
    assert load_encoder("tiny", model_files(tmp_path), threads=1).width == 8


def test_an_unknown_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"one of \['tiny'\]; got 'clip'"):
        load_encoder("clip", model_files(tmp_path), threads=1)


@pytest.mark.parametrize("change", [{"processor": Path("x")}, {"weights": None}])
def test_roles_must_be_those_of_the_family(tmp_path: Path, change: dict[str, Path | None]) -> None:
    files = {role: path for role, path in (model_files(tmp_path) | change).items() if path is not None}
    with pytest.raises(InvalidInput, match="must have the files"):
        load_encoder("tiny", files, threads=1)


def test_threads_and_dtype_are_checked(tmp_path: Path) -> None:
    files = model_files(tmp_path)
    with pytest.raises(InvalidInput, match="threads must be at least 1; got 0"):
        load_encoder("tiny", files, threads=0)
    with pytest.raises(InvalidInput, match="dtype must be one of"):
        load_encoder("tiny", files, threads=1, dtype="int8")
