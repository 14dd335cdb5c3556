"""The map and the pages around it: every folder stands in it once, every link of every page leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.shell_page import DOCS, REPOSITORY

ARCHITECTURE = (DOCS / "architecture.md").read_text()
PAGES = sorted([*DOCS.rglob("*.md"), *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])
PACKAGES = ("library/superbatch", "superbatch_server", "superbatch_server/service")


def rooms() -> list[str]:
    """Return every folder of code that must stand in the map."""
    found = [path.parent for package in PACKAGES for path in (REPOSITORY / package).glob("*/__init__.py")]
    return sorted(str(path.relative_to(REPOSITORY)) for path in found)


def test_every_room_stands_in_the_map_once() -> None:
    listed = re.findall(r"^\| `([\w/]+)`", ARCHITECTURE, re.MULTILINE)
    assert [room for room in rooms() if listed.count(room) != 1] == []
    assert [place for place in listed if not (REPOSITORY / place).is_dir()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "", text)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    broken = [link for link in links if not _leads(page, link)]
    assert broken == []


def _leads(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return False
    return not anchor or target.suffix != ".md" or anchor in _anchors(target)


def _anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_rules_for_contributors_fit_on_a_page() -> None:
    assert len((REPOSITORY / "CONTRIBUTING.md").read_text().splitlines()) < 60
