"""Lines of the log: JSON or text, with their context, never with a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch_server.service.settings import Settings
from superbatch_server.service.watching.log_lines import (
    HIDDEN,
    LineFormatter,
    Redactor,
    log_context,
    secrets_of,
    set_up_logging,
)

SECRET = "sUp3r-s3cret-value"


@pytest.fixture
def quiet_root() -> Iterator[None]:
    """Put logging back as it was."""
    root, ours = logging.getLogger(), logging.getLogger("superbatch")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])
    logging.captureWarnings(False)


def record(message: str, *arguments: object, fields: dict[str, object] | None = None) -> logging.LogRecord:
    made = logging.LogRecord("superbatch.test", logging.INFO, "file", 1, message, arguments, None)
    made.fields = fields or {}
    return made


def test_a_line_of_json_has_its_context() -> None:
    formatter = LineFormatter("json", Redactor())
    with log_context(request_id="r1", job="job_1", attempt=None), log_context(attempt=2):
        line = json.loads(formatter.format(record("did %s", "it", fields={"status": 200})))
    assert line["at"].endswith("Z")
    expected = {"level": "info", "logger": "superbatch.test", "message": "did it", "request_id": "r1", "job": "job_1"}
    assert line | expected | {"attempt": "2", "status": 200} == line
    assert "request_id" not in json.loads(formatter.format(record("after")))


@given(st.text())
def test_a_line_is_one_line_whatever_was_logged(text: str) -> None:
    for form in ("json", "text"):
        line = LineFormatter(form, Redactor()).format(record("%s", text, fields={"path": text}))  # type: ignore[arg-type]
        assert "\n" not in line
        assert "\r" not in line


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"headers {{'authorization': 'Bearer {SECRET}'}}",
        f"Bearer {SECRET}",
        f"Cookie: superbatch_session=1.{SECRET}; x={SECRET}",
        f"GET /login?code={SECRET}",
        f"GET /x?a=1&X-Amz-Signature={SECRET}&b=2",
        f"postgresql+psycopg://user:{SECRET}@host/name",
        f"connect failed: password={SECRET} host=x",
        f"SUPERBATCH_ATTEMPT_SECRET={SECRET}",
        f"RAY_AUTH_TOKEN='{SECRET}'",
        f"sbt_{SECRET}",
        f"known {SECRET}",
    ],
)
@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_goes_out(text: str, form: str) -> None:
    redactor = Redactor([SECRET] if text.startswith("known") else [])
    formatter = LineFormatter(form, redactor)  # type: ignore[arg-type]
    made = record("got %s", text, fields={"path": text})
    try:
        raise ValueError(text)
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    line = formatter.format(made)
    assert SECRET not in line
    assert HIDDEN in line


def test_what_is_no_secret_stays() -> None:
    text = "GET /v1/jobs?state=QUEUED&page_size=3 exit_code=1 https://host:8600/x key=pool/0.tar"
    assert Redactor().redact(text) == text


def test_the_mains_know_the_secrets_of_their_settings(tmp_path: Path, quiet_root: None) -> None:
    settings = Settings(
        data_dir=tmp_path,
        database_url=f"postgresql+psycopg://user:{SECRET}@host/name",
        ray_token="ray-token-of-the-test",
        log_format="json",
    )
    assert {SECRET, "ray-token-of-the-test", "own-token"} <= set(secrets_of(settings, "own-token"))
    stream = io.StringIO()
    set_up_logging(settings, token="own-token", stream=stream)
    logging.getLogger("superbatch.api").info("%s and own-token and ray-token-of-the-test", SECRET)
    logging.getLogger("some.library").info("left out")
    logging.getLogger("uvicorn.error").warning("kept")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["message"] == f"{HIDDEN} and {HIDDEN} and {HIDDEN}"
    assert second["logger"] == "uvicorn.error"
