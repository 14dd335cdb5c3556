"""docs/trainers/checkpoints.md says what the programs do: settings, requests, flags, reasons."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from superbatch.cli import convert, watch_checkpoints
from superbatch_server.schemas.errors import STATUS_OF_CODE
from superbatch_server.service.describing.openapi import openapi_text
from superbatch_server.service.settings import PREFIX, Settings

PAGE = (Path(__file__).parents[3] / "docs/trainers/checkpoints.md").read_text()
REASONS_OF_DRIVERS = {"invalid_weights", "not_finite", "learner_not_finite"}


def test_every_setting_of_uploads_is_named_and_every_named_one_exists() -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z_]+[A-Z]", PAGE))
    assert named == {PREFIX + name.upper() for name in Settings.model_fields if name.startswith("upload")}


def test_the_requests_exist() -> None:
    paths = {re.sub(r"\{\w+\}", "{}", path): set(entry) for path, entry in json.loads(openapi_text())["paths"].items()}
    requests = re.findall(r"^    (POST|GET|PUT) +(/v1/\S+)", PAGE, re.MULTILINE)
    assert len(requests) == 5
    for method, path in requests:
        assert method.lower() in paths[re.sub(r"\{\w+\}", "{}", path.partition("?")[0])]


def test_every_reason_has_its_status() -> None:
    rows = re.findall(r"^\| .* \| (.*) \| `(\w+)`", PAGE[PAGE.index("what is wrong | where") :], re.MULTILINE)
    assert {code for _, code in rows} - REASONS_OF_DRIVERS <= STATUS_OF_CODE.keys()
    for where, code in rows:
        if status := re.search(r"\((\d+)\)", where):
            assert STATUS_OF_CODE[code] == int(status[1])
        else:
            assert code in REASONS_OF_DRIVERS


@pytest.mark.parametrize("command", [convert, watch_checkpoints])
def test_the_commands_are_taken_as_they_stand(command: object) -> None:
    name = command.__name__.rpartition(".")[2].replace("_", "-")  # type: ignore[attr-defined]
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.add_parsers(parser)  # type: ignore[attr-defined]
    lines = re.findall(rf"^    superbatch {name} (.*)$", PAGE + command.HELP, re.MULTILINE)  # type: ignore[attr-defined]
    assert lines
    for line in lines:
        parser.parse_args(line.replace("[", "").replace("]", "").replace("'", "").split())
