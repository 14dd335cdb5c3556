"""docs/trainers/conformance.md names every variable, check, set and fault that the kit has."""

from __future__ import annotations

import re
from pathlib import Path

from superbatch.cli import verify_loader
from superbatch.conformance import cases, trace
from superbatch.conformance.checks import Check

TEXT = (Path(__file__).parents[3] / "docs" / "trainers" / "conformance.md").read_text()


def test_every_variable_of_the_trace_is_documented() -> None:
    variables = set(re.findall(r"SUPERBATCH_[A-Z_]+", Path(trace.__file__).read_text()))
    assert len(variables) == 9
    assert {name for name in variables if f"`{name}`" not in TEXT} == set()


def test_every_check_is_documented_with_its_rule() -> None:
    assert [check for check in Check if f"| `{check}` | {check.meaning} |" not in TEXT] == []


def test_every_set_of_cases_is_documented_and_on_the_command_line() -> None:
    assert verify_loader.SETS == cases.SETS
    assert [name for name in cases.SETS if f"`{name}`" not in TEXT] == []
