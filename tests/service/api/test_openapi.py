"""The API's description: kept in docs/openapi.json, and complete. The service stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from superbatch_server.service.describing.openapi import openapi_text

KEPT = Path(__file__).parents[3] / "docs/openapi.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(openapi_text())
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", entry) for path, entries in document["paths"].items() for method, entry in entries.items()
    ]


def test_the_kept_description_is_the_present_one() -> None:
    assert KEPT.read_text() == openapi_text(), "the API has changed: run `make docs` and look at the difference"


def test_every_operation_is_described_and_names_its_errors(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation.get("description"), name
        errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert set(errors) >= ({"500", "503"} if name == "get /healthz" else {"401", "403", "429", "500", "503"}), name
        for status, answer in errors.items():
            assert answer["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem"), (name, status)


def test_no_error_has_another_form(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_resource_is_there(document: dict[str, Any]) -> None:
    assert {name for name, _ in operations(document)} >= {
        "get /v1/roots",
        "post /v1/datasets",
        "get /v1/datasets/{dataset_id}/shards",
        "post /v1/models",
        "post /v1/jobs",
        "post /v1/jobs/{job_id}:cancel",
        "post /v1/jobs/{job_id}:retry",
        "get /v1/jobs/{job_id}/events",
        "get /v1/jobs/{job_id}/stats",
        "get /v1/jobs/{job_id}/manifest",
        "get /v1/jobs/{job_id}/lists/{name}",
        "post /v1/jobs/{job_id}/checkpoints",
        "put /v1/jobs/{job_id}/consumers/{name}",
    }


def test_every_post_takes_a_key_or_is_named_by_its_content(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if name.startswith("post ") and "/uploads" not in name:
            headers = [each["name"] for each in operation["parameters"] if each["in"] == "header"]
            assert "idempotency-key" in headers, name


def test_the_service_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; import superbatch_server.service.app, superbatch_server.service.upkeep.verification; "
        "print(sorted({'torch', 'ray', 'numpy', 'pyarrow', 'pandas'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
