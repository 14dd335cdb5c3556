"""What several modules must agree on is written once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import superbatch_server

PROGRAM = Path(superbatch_server.__file__).parent


@pytest.mark.parametrize(
    ("what", "home"),
    [
        (r"\"(private, no-cache|no-cache, private)\"", "service/routes/answers.py"),
        (r"hashlib\.sha256\(secret\.encode\(\)\)\.hexdigest\(\)", "service/catalog/claims.py"),
    ],
)
def test_it_stands_in_one_place(what: str, home: str) -> None:
    found = {
        path.relative_to(PROGRAM).as_posix() for path in PROGRAM.rglob("*.py") if re.search(what, path.read_text())
    }
    assert found == {home}
