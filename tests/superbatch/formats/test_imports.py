"""formats/ needs the standard library and pyarrow, log/ needs httpx besides, and importing the package "
"needs neither."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import superbatch

PACKAGE = Path(superbatch.__file__).parent


def imported(folder: Path) -> set[str]:
    """Top-level names of everything that the modules of a folder import, at any depth."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                names.add(node.module or "")
    return names


@pytest.mark.parametrize(
    ("folder", "allowed", "own"),
    [
        ("formats", {"pyarrow"}, ("superbatch.formats",)),
        ("log", {"pyarrow", "httpx"}, ("superbatch.formats", "superbatch.log")),
    ],
)
def test_imports_stay_within_the_core(folder: str, allowed: set[str], own: tuple[str, ...]) -> None:
    names = imported(PACKAGE / folder)
    ours = {name for name in names if name.partition(".")[0] == "superbatch"}
    assert all(name.startswith(own) for name in ours)
    others = {name.partition(".")[0] for name in names - ours}
    assert others - set(sys.stdlib_module_names) <= allowed


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import superbatch, sys; print(sorted({'torch', 'numpy', 'pyarrow', 'httpx'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
