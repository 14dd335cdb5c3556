"""docs/reference.md says what the program's own lists say."""

from __future__ import annotations

from pathlib import Path

from superbatch_server.schemas.errors import STATUS_OF_CODE
from superbatch_server.service.reference import reference_text
from superbatch_server.service.settings import Settings

KEPT = Path(__file__).parents[2] / "docs/reference.md"


def test_the_kept_page_is_the_present_one() -> None:
    assert KEPT.read_text() == reference_text(), "settings, requests or errors have changed: run `make docs`"


def test_every_setting_and_error_code_is_named() -> None:
    page = KEPT.read_text()
    names = [f"SUPERBATCH_{name.upper()}" for name in Settings.model_fields] + list(STATUS_OF_CODE)
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
