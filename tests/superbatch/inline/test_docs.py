"""The pages on inline selection and on variants name what there is, and their programs are Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import superbatch.inline
from superbatch.cli.variant_flag import variant
from superbatch.formats import variants
from superbatch_server.schemas.errors import VariantsDoNotDivide
from superbatch_server.schemas.selection import SelectionSpec

PAGES = Path(__file__).parents[3] / "docs" / "trainers"


def test_the_page_names_everything_public() -> None:
    page = (PAGES / "inline.md").read_text()
    assert {name for name in superbatch.inline.__all__ if name not in page} == {"FlexiBatch", "SelectionPolicy"}
    for name in superbatch.inline.__all__:
        assert getattr(superbatch.inline, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        superbatch.inline.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["inline.md", "flexi.md"])
def test_programs_compile_and_pages_that_are_linked_exist(name: str) -> None:
    page = (PAGES / name).read_text()
    programs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert programs
    for program in programs:
        compile(program, name, "exec")
    for link in re.findall(r"\]\(([^)]+)\)", page):
        assert (PAGES / link).is_file(), link


def test_the_flags_on_the_page_make_a_job_with_the_cost_it_states() -> None:
    page = (PAGES / "flexi.md").read_text()
    given = [variant(text) for text in re.findall(r"--variant (\S+)", page)]
    selection = SelectionSpec.model_validate({"b": 128, "variants": given})
    assert selection.variant_counts() == (64, 64)
    assert f"{selection.trained_flops_fraction():.2f} above" in page
    assert VariantsDoNotDivide.code in page
    assert variants.variant_counts(10, (0.5, 0.25, 0.25)) == (5, 3, 2)
