"""docs/trainers/: the pages of the torch adapters name only what exists, and every recipe has its page."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from superbatch.torch import CuratedLoader, Workers

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs/trainers"
PAGES = ["index.md", "pytorch.md", "accelerate.md", "lightning.md", "hf-trainer.md"]


def programs(page: str) -> list[ast.Module]:
    found = re.findall(r"```python\n(.*?)```", (FOLDER / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return [ast.parse(text.replace(", ...]", "]")) for text in found]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_lead_somewhere(page: str) -> None:
    text = (FOLDER / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert [link for link in links if not (FOLDER / link).exists()] == []
    assert [path for path in re.findall(r"examples/[\w/]+\.py", text) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_imports_and_passes_exists(page: str) -> None:
    options = {"CuratedLoader": CuratedLoader.__init__, "Workers": Workers.__init__}
    num_nodes = 0
    for node in (node for program in programs(page) for node in ast.walk(program)):
        num_nodes += 1
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in options:
            known = set(inspect.signature(options[node.func.id]).parameters)
            assert {word.arg for word in node.keywords} <= known
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "loader":
            assert hasattr(CuratedLoader, node.attr), node.attr
    assert num_nodes > 0


def test_every_recipe_has_a_page_that_names_it() -> None:
    text = "".join((FOLDER / page).read_text(encoding="utf-8") for page in PAGES)
    recipes = sorted(path.name for path in (ROOT / "examples/trainers").glob("train_*.py"))
    assert recipes
    assert [name for name in recipes if f"examples/trainers/{name}" not in text] == []
