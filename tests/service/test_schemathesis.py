"""The whole API against its own description: whatever is asked, the answer is one that the OpenAPI document names.

Requests are generated from the document, good ones and bad ones, seeded, against a catalog that holds one of
everything, so that ids are often real. Checked: no 5xx, documented status, content type, body and headers; bad requests
refused.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.python.asgi import ASGIClient, get_client
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from superbatch_server.service.describing.openapi import openapi_text
from tests.service.api.world import TOKEN, URL, World
from tests.service.catalog.builders import DATASET_ID
from tests.service.dashboard.scores.scored_world import MIXED, ScoredWorld

EXAMPLES = 10
LONG_EXAMPLES = 300
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


def without_security(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document for somebody who always sends the token, so that leaving it out is no way to be wrong."""
    for entry in document["paths"].values():
        for operation in entry.values():
            del operation["security"]
    return document


def can_be_wrong(method: str, path: str) -> bool:
    """Claim that a request takes more than ids, which may be any text."""
    operation = DOCUMENT["paths"][path][method.lower()]
    ids = [{"type": "string"}, {"type": "string", "title": ""}]
    forms = [dict(each["schema"], title="") for each in operation.get("parameters", ())]
    return "requestBody" in operation or any(form not in ids for form in forms)


DOCUMENT = without_security(json.loads(openapi_text()))
OPERATIONS = [f"{method.upper()} {path}" for path, entry in DOCUMENT["paths"].items() for method in entry]
OPERATIONS.sort(key=lambda label: (label.startswith("DELETE"), label))
CAN_BE_WRONG = [label for label in OPERATIONS if can_be_wrong(*label.split(" "))]
LONGEST_WAIT_S = 0.01


class Seeded:
    """One of everything, and the names by which paths lead to it."""

    def __init__(self, world: World) -> None:
        self.world = world
        job_id = world.submit(world.pushed_spec(num_batches=4))
        world.publish(job_id, 2, per_source={"emoji": (8, 4)}, batches=1)
        answer = world.put_consumer(job_id, world.report(job_id))
        assert answer.status_code == 200, answer.text
        checkpoint = world.push(job_id, 0)
        upload = world.post(f"/v1/jobs/{job_id}/uploads", {"sha256": "a" * 64, "size_bytes": 100})
        lists = world.get(f"/v1/jobs/{job_id}/manifest")["segments"]
        scored = ScoredWorld(world)
        scored.publish(MIXED)
        scored.index()
        self._values = {
            "job_id": job_id,
            "dataset_id": DATASET_ID,
            "model_id": world.model(),
            "token_id": str(world.post("/v1/tokens", {"name": "x", "scope": "read"}, status=201)["id"]),
            "upload_id": str(upload["id"]),
            "checkpoint_id": str(checkpoint["id"]),
            "name": "trainer",
            "seq": "0",
            "run_id": str(world.post("/v1/gc", {"dry_run": True})["id"]),
        }
        self._of_path = {
            "/batches/": {"job_id": scored.job_id},
            "/lists/": {"name": lists[0]["list"].rpartition("/")[2]},
        }

    def values(self, path: str) -> dict[str, str]:
        """Return the parameters by which a path leads to something."""
        special = [values for part, values in self._of_path.items() if part in path]
        return self._values | (special[0] if special else {})


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    world = World(tmp_path_factory.mktemp("seeded"), requests_per_s=1e6)
    yield Seeded(world)
    world.close()


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_a_documented_one(seeded: Seeded, label: str) -> None:
    run(seeded, label, GenerationMode.POSITIVE, examples=EXAMPLES)


@pytest.mark.parametrize("label", CAN_BE_WRONG)
def test_every_bad_request_is_refused_as_documented(seeded: Seeded, label: str) -> None:
    run(seeded, label, GenerationMode.NEGATIVE, examples=EXAMPLES)


@pytest.mark.long
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("label", CAN_BE_WRONG)
def test_the_same_with_many_more_requests(seeded: Seeded, label: str, mode: GenerationMode) -> None:
    run(seeded, label, mode, examples=LONG_EXAMPLES)


def run(seeded: Seeded, label: str, mode: GenerationMode, *, examples: int) -> None:
    """Send generated requests of one operation."""
    method, path = label.split(" ")
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    checks = [*CHECKS, *([negative_data_rejection] if mode is GenerationMode.NEGATIVE else [])]
    cases = operation.as_strategy(generation_mode=mode)
    values = seeded.values(path)
    if mode is GenerationMode.NEGATIVE:  # only what may be any text, so that nothing wrong is made good
        values = {name: value for name, value in values.items() if name.endswith("_id") and name != "upload_id"}

    statuses: list[int] = []
    with get_client(seeded.world.app) as client:

        @hypothesis_settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases, choice=st.integers(0, 3))
        def send(case: Case, choice: int) -> None:
            statuses.append(check(client, case, values if choice else {}, checks))

        send()
    if mode is GenerationMode.POSITIVE and method == "GET":
        assert min(statuses) < 300, f"no request of {label} found anything: {statuses}"


def check(client: ASGIClient, case: Case, values: dict[str, str], checks: list[Any]) -> int:
    """Send one request, with real ids where there are some, compare the answer with the document; return its status."""
    for name in case.path_parameters or {}:
        if name in values:
            case.path_parameters[name] = values[name]
    if isinstance(case.query, dict) and "wait" in case.query:
        case.query["wait"] = bounded(case.query["wait"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        response = case.call(base_url=URL, session=client, headers={"Authorization": f"Bearer {TOKEN}"})
        assert response.status_code < 500, (response.status_code, response.text, case.as_curl_command())
        case.validate_response(response, checks=checks)
        return int(response.status_code)


def bounded(wait: Any) -> Any:
    """Return a wait that a test has time for; what is no number stays what it is."""
    try:
        return min(float(wait), LONGEST_WAIT_S)
    except (TypeError, ValueError):
        return wait
