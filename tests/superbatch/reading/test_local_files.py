"""Files of a folder: what is no regular file is refused instead of waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from superbatch.reading.local_files import LocalFiles
from superbatch.reading.ranges import ByteRange


def test_a_pipe_in_place_of_a_shard_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.tar")
    with pytest.raises(OSError, match="is not a regular file"):
        LocalFiles(tmp_path).read_ranges("0.tar", [ByteRange(0, 10)])


def test_a_folder_in_place_of_a_shard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0.tar").mkdir()
    with pytest.raises(OSError, match="is not a regular file"):
        LocalFiles(tmp_path).read_ranges("0.tar", [ByteRange(0, 10)])
