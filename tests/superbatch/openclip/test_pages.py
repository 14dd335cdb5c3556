"""docs/trainers/{open-clip,webdataset,datacomp}.md: their commands parse, and they name every option."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from superbatch.cli.main import LOG_COMMANDS, build_parser
from superbatch.openclip.__main__ import own_parser, split_arguments

FOLDER = Path(__file__).parents[3] / "docs/trainers"
PAGES = {name: (FOLDER / f"{name}.md").read_text(encoding="utf-8") for name in ("open-clip", "webdataset", "datacomp")}
COMMANDS = [
    line
    for text in PAGES.values()
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("superbatch ")])
def test_every_command_parses(line: str) -> None:
    options = build_parser().parse_args(shlex.split(line)[1:])
    assert options.command in LOG_COMMANDS


@pytest.mark.parametrize("line", [line for line in COMMANDS if "superbatch.openclip" in line])
def test_every_run_of_open_clip_parses(line: str) -> None:
    own, theirs = split_arguments(shlex.split(line.partition("-m superbatch.openclip")[2]))
    own_parser().parse_args(own)
    assert theirs


def test_each_kind_of_command_is_there() -> None:
    assert {shlex.split(line)[1] for line in COMMANDS if line.startswith("superbatch ")} == set(LOG_COMMANDS)
    assert sum("superbatch.openclip" in line for line in COMMANDS) == 2


def test_the_page_names_every_option_of_ours() -> None:
    options = {flag for action in own_parser()._actions for flag in action.option_strings if flag.startswith("--")}
    assert [flag for flag in sorted(options - {"--help"}) if flag not in PAGES["open-clip"]] == []


def test_links_lead_to_pages_that_are_there() -> None:
    links = {link for text in PAGES.values() for link in re.findall(r"\]\(([a-z-]+\.md)[)#]", text)}
    assert [link for link in sorted(links) if not (FOLDER / link).exists()] == []


def test_without_a_separator_all_arguments_are_open_clips() -> None:
    assert split_arguments(["--model", "x"]) == ([], ["--model", "x"])
    assert split_arguments(["--as-is", "--", "--model", "x", "--", "y"]) == (["--as-is"], ["--model", "x", "--", "y"])
    assert split_arguments(["--help"]) == (["--help"], [])
