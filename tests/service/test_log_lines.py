"""Lines of the log: JSON or text, with their context, never with a secret."""

from __future__ import annotations

import io
import json
import logging
import time
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
        f"password: {SECRET}",
        f'{{"token": "{SECRET}", "x": 1}}',
        f'{{\\"token\\": \\"{SECRET}\\"}}',
        f"secret_key={SECRET}",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"password='two {SECRET} words'",
        f"postgresql://user:p@ss@{SECRET}@host/name",
        f"{'x' * 100}_token={SECRET}",
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


@pytest.mark.parametrize(
    "part", ["A-", "a.", "x://", "x://u:", "token", "bearer ", 'password="', "cookie:", "code", "sbt", "p:'", "@"]
)
def test_no_text_takes_long_to_redact(part: str) -> None:
    text = part * (256_000 // len(part))
    begun_s = time.process_time()
    Redactor().redact(text)
    assert time.process_time() - begun_s < 5, "a quadratic pattern takes minutes"


def test_a_long_text_is_cut_between_its_words() -> None:
    text = "word " * 10_000 + f"password={SECRET}"
    for form in ("json", "text"):
        line = LineFormatter(form, Redactor()).format(record("%s", text, fields={"path": text}))  # type: ignore[arg-type]
        assert len(line) < 20_000
        assert "word ... (50" in line


def test_no_value_makes_up_another_field_and_no_fault_another_line() -> None:
    made = record("answered", fields={"path": '/x status=200 "', "status": 404})
    try:
        raise ValueError("bad\n2026-01-01T00:00:00.000Z INFO superbatch.api answered")
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    first, *rest = LineFormatter("text", Redactor()).format(made).split("\n")
    assert first.endswith(r'answered  path="/x status=200 \"" status=404')
    assert rest
    assert all(line.startswith("  ") for line in rest)


@pytest.mark.parametrize("form", ["json", "text"])
def test_what_hides_or_turns_text_is_written_out(form: str) -> None:
    hiding = "\x00\x1b[31m\x7f\x85\x9b\u202e\u2028\u2066\ufeff\ud800"
    line = LineFormatter(form, Redactor()).format(record("%s", hiding, fields={"path": hiding}))  # type: ignore[arg-type]
    assert not set(line) & set(hiding.replace("[31m", ""))
    assert line.count(r"\u202e") == 2
    if form == "json":
        assert json.loads(line)["path"] == hiding


def test_what_is_no_secret_stays() -> None:
    text = "GET /v1/jobs?state=QUEUED&page_size=3 exit_code=1 https://host:8600/x key=pool/0.tar tokens=5 exit code: 1"
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
