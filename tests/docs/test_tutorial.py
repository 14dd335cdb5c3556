"""docs/tutorial.md: from two folders of pictures to a trained learner, every command as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.shell_page import DOCS, REPOSITORY, run_script, script_of, why_not
from tests.e2e.house import running_house

PAGE = DOCS / "tutorial.md"


@pytest.mark.long
@pytest.mark.slow_ray
@pytest.mark.timeout(900)
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_the_whole_page(tmp_path: Path) -> None:
    roots = {name: tmp_path / folder for name, folder in _roots_of_the_page().items()}
    for folder in roots.values():
        folder.mkdir(parents=True)
    data_dir = tmp_path / ".local/share/superbatch"
    with running_house(data_dir, roots) as house:
        script = script_of(PAGE).replace("http://127.0.0.1:8600", house.url)
        variables = {"REPOSITORY": str(REPOSITORY)}
        printed = run_script(script, folder=tmp_path, home=tmp_path, limit_s=600, **variables)
    assert "trained 60, loss" in printed
    assert "SUCCEEDED" in printed
    (chosen, all_candidates) = re.findall(r"learnability (-?[\d.]+) in batches, (-?[\d.]+) in super", printed)[0]
    assert float(chosen) > float(all_candidates)
    assert "filter ratio 0.80" in printed
    assert int(re.findall(r"generation (\d+)", printed)[-1]) >= 1


def _roots_of_the_page() -> dict[str, str]:
    (line,) = [line for line in PAGE.read_text().splitlines() if "superbatch serve" in line]
    return dict(re.findall(r"--root (\w+)=(\S+)", line))
