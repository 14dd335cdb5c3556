"""/docs: every request on one page, without a script and without another host."""

from __future__ import annotations

import html
import json
import re

from superbatch_server.service.describing.api_page import draw_api
from superbatch_server.service.describing.openapi import openapi_text
from tests.service.api.world import World


def test_the_page_shows_every_request_with_its_scope(one_world: World) -> None:
    response = one_world.client_with().get("/docs")
    assert response.status_code == 200
    text = html.unescape(response.text)
    for path, operations in json.loads(openapi_text())["paths"].items():
        for method, operation in operations.items():
            assert f"<code>{method.upper()} {path}</code>" in text
            for parameter in operation.get("parameters", []):
                assert parameter["name"] in text
    assert text.count("Scope <strong>admin</strong>") > 5


def test_nothing_is_loaded_from_elsewhere_and_no_script_runs(one_world: World) -> None:
    response = one_world.client_with().get("/docs")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    for tag in ("<script", "<iframe", "style=", "<style", "onclick"):
        assert tag not in response.text
    for address in re.findall(r"(?:src|href)=\"([^\"]*)\"", response.text):
        assert address.startswith(("/static/", "/openapi.json", "#")), address
        if address.startswith("/"):
            assert one_world.client_with().get(address).status_code == 200


def test_the_text_of_a_document_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    operation = {"description": evil, "responses": {}, "tags": [evil]}
    document = {
        "info": {"title": evil, "version": "1", "description": evil},
        "paths": {f"/{evil}": {"get": operation}},
        "components": {"schemas": {"S": {"description": evil}}},
    }
    assert evil not in draw_api(document)
