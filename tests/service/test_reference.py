"""The pages made from the program say what its own lists say, and each line of them says something."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import superbatch_server.workers
from superbatch.formats.errors import SuperbatchError
from superbatch_server.schemas.errors import STATUS_OF_CODE, ApiError
from superbatch_server.service.access.scopes import OPEN_ROUTES, SCOPE_OF_ROUTE
from superbatch_server.service.describing.advice import JOB_FAILURES, REMEDIES, SETTING_HINTS
from superbatch_server.service.describing.openapi import openapi_text
from superbatch_server.service.describing.reference import PAGES, errors_text, reference_text, settings_text
from superbatch_server.service.settings import PREFIX, Settings

DOCS = Path(__file__).parents[2] / "docs"

OF_THE_TRAINER = {
    "behind_retention",
    "history_changed",
    "log_ended",
    "log_error",
    "log_stalled",
    "peer_failed",
    "revoked_batch",
    "invalid_plan",
    "superbatch_error",
}
"""Codes that only a trainer's process or the command line raises."""
NEVER_ENDS_A_JOB = {"bad_row", "ray_stopped", "service_error", "service_unreachable"}
"""A row is quarantined, a driver crashes and is started again, or it ends with the code that the service answered."""


@pytest.mark.parametrize("name", PAGES)
def test_the_kept_page_is_the_present_one(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), f"{name} is not what the program says now: run `make docs`"


def test_every_setting_has_a_meaning_and_a_hint() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    assert set(SETTING_HINTS) == set(Settings.model_fields), (
        "superbatch_server/service/describing/advice.py: SETTING_HINTS"
    )
    assert _first_cells(settings_text()) == [f"`{PREFIX}{name.upper()}`" for name in Settings.model_fields]


def test_every_code_has_a_meaning_and_a_remedy() -> None:
    assert set(REMEDIES) == set(STATUS_OF_CODE), "superbatch_server/service/describing/advice.py: REMEDIES"
    answers, failures = errors_text().split("## Why a job FAILED")
    lines = [line for line in answers.splitlines() if line.startswith("| `")]
    codes = {line.split("`")[1]: line for line in lines[-len(STATUS_OF_CODE) :]}
    assert list(codes) == sorted(STATUS_OF_CODE)
    assert [code for code, line in codes.items() if "|  |" in line] == []
    assert _first_cells(failures) == [f"`{code}`" for code in sorted(JOB_FAILURES)]


def test_every_code_with_which_a_worker_can_end_a_job_is_explained() -> None:
    for module in pkgutil.walk_packages(superbatch_server.workers.__path__, "superbatch_server.workers."):
        importlib.import_module(module.name)
    loaded = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    imports = "; ".join(
        f"import {name}" for name in sorted(sys.modules) if name.startswith("superbatch_server.workers.")
    )
    ran = subprocess.run([sys.executable, "-c", f"{imports}; {loaded}"], capture_output=True, text=True, check=True)
    modules = set(json.loads(ran.stdout))  # what other tests have loaded here is no business of the workers
    raised = {
        kind.code for kind in _family(SuperbatchError) if not issubclass(kind, ApiError) and kind.__module__ in modules
    }
    assert sorted(raised - OF_THE_TRAINER - NEVER_ENDS_A_JOB - set(JOB_FAILURES)) == []


def test_every_request_stands_with_its_scope() -> None:
    paths = json.loads(openapi_text())["paths"]
    routes = [f"{method.upper()} {path}" for path, operations in paths.items() for method in operations]
    page = reference_text().splitlines()
    for route in routes:
        (line,) = [line for line in page if line.startswith(f"| `{route}` |")]
        scope = "none" if route in OPEN_ROUTES else SCOPE_OF_ROUTE[route.replace("HEAD ", "GET ")].value
        assert line.split("|")[2].strip() == scope, line


def _first_cells(page: str) -> list[str]:
    return [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| `")]


def _family(kind: type[SuperbatchError]) -> Iterator[type[SuperbatchError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)
