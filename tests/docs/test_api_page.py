"""docs/api.md: every example does what the page says, against a real service."""

from __future__ import annotations

from pathlib import Path

import pytest

from superbatch_server.schemas.tokens import Scope
from superbatch_server.service.access.body_limit import MAX_BODY_BYTES, MAX_BODY_BYTES_OF_PATH, SMALL_BODY_BYTES
from superbatch_server.service.routes.manifest import LONGEST_WAIT_S
from tests.docs.shell_page import DOCS, REPOSITORY, SAMPLE, run_script, script_of, why_not
from tests.e2e.house import running_house

PAGE = DOCS / "api.md"


@pytest.mark.long
@pytest.mark.slow_ray
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_the_examples_run_from_top_to_bottom(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    data_dir = tmp_path / ".local/share/superbatch"
    with running_house(data_dir, {"sample": SAMPLE, "runs": tmp_path / "runs"}) as house:
        script = script_of(PAGE).replace("http://127.0.0.1:8600", house.url)
        printed = run_script(script, folder=tmp_path, home=tmp_path)
    for said in ("forbidden\n", "304\n", "PAR1", "event: end", "page_token_refused\n", "RECEIVED\n", "in_use\n"):
        assert said in printed, f"{said!r} is promised by the page"
    assert '"code":"validation"' in printed
    assert "upload-complete: ?0" in printed.lower()
    assert "x-request-id: " in printed


def test_its_numbers_and_scopes_are_those_of_the_program() -> None:
    page = " ".join(PAGE.read_text().split())
    assert [scope for scope in Scope if f"| `{scope}` |" not in page] == []
    assert (MAX_BODY_BYTES, MAX_BODY_BYTES_OF_PATH, SMALL_BODY_BYTES) == (8 << 20, {"/v1/datasets": 64 << 20}, 64 << 10)
    assert LONGEST_WAIT_S == 60
    for words in ("Bodies: 8 MiB", "data sets 64 MiB", "Above 64 KiB", "at most 60 s"):
        assert words in page
