"""`events --follow`, `logs` and `tokens`."""

from __future__ import annotations

import io

import httpx
import pytest

from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.history import events, logs
from superbatch.cli.main import build_parser
from superbatch.cli.tokens import create_token, delete_token, list_tokens
from tests.superbatch.cli.service import FakeService, Json, event, job

JOB = "job_00000000000000aa"
LINES = "first\n  second \x1b[2J\u202eline\nlast"


class Attempts:
    """A job whose attempts write their logs piece by piece, one piece per look."""

    def __init__(self, *attempts: list[str]) -> None:
        self._left = [list(pieces) for pieces in attempts]
        self._written = ["" for _ in attempts]
        self.begun = 1
        self.is_over = False
        self.asked: list[dict[str, str]] = []

    def log(self, request: httpx.Request) -> Json:
        self.asked.append(dict(request.url.params))
        number = int(request.url.params.get("attempt", self.begun))
        pieces = self._left[number - 1]
        if pieces:
            self._written[number - 1] += pieces.pop(0)
        elif number == len(self._left):
            self.is_over = True
        else:
            self.begun = number + 1
        content = self._written[number - 1].encode()
        after, limit = int(request.url.params["after"]), int(request.url.params["limit"])
        start = max(0, len(content) + after) if after < 0 else after
        part = content[start : start + limit]
        return {
            "job": JOB, "attempt": number, "after": start, "next_after": start + len(part), "size": len(content),
            "is_over": not pieces and start + len(part) == len(content), "text": part.decode(),
        }  # fmt: skip

    def state(self, _: httpx.Request) -> Json:
        return job("SUCCEEDED" if self.is_over else "RUNNING", attempt=self.begun)

    def service(self) -> FakeService:
        return FakeService({f"GET /v1/jobs/{JOB}/logs": self.log, f"GET /v1/jobs/{JOB}": self.state})


def printed(attempts: Attempts, *arguments: str) -> str:
    out = io.StringIO()
    options = build_parser().parse_args(["logs", JOB, *arguments])
    assert logs(options, attempts.service().service(), out=out, sleep=lambda _: None) == Exit.OK
    return out.getvalue()


def test_a_log_is_printed_line_by_line_without_what_moves_a_terminal() -> None:
    assert printed(Attempts([LINES])) == "first\n  second  [2J line\nlast\n"


def test_a_followed_log_goes_on_with_the_next_attempt_to_the_end_of_the_job() -> None:
    attempts = Attempts(["one\ntw", "o\n"], ["three\n"])
    assert printed(attempts, "--follow") == "one\ntwo\nthree\n"
    assert printed(Attempts(["one\n"], ["three\n"]), "--follow", "--attempt", "2") == "three\n"


def test_the_tail_of_a_log() -> None:
    attempts = Attempts(["0123456789\nend\n"])
    assert printed(attempts, "--tail", "4") == "end\n"
    assert attempts.asked[0]["after"] == "-4"


def test_events_are_followed_until_the_job_is_over() -> None:
    looks = iter([["submitted"], ["began"], ["succeeded"]])
    states = iter(["QUEUED", "RUNNING", "SUCCEEDED"])

    def page(request: httpx.Request) -> Json:
        after = int(request.url.params["after"])
        return {"events": [event(after + 1, kind, "m") for kind in next(looks)], "next_page_token": None}

    fake = FakeService({f"GET /v1/jobs/{JOB}/events": page, f"GET /v1/jobs/{JOB}": lambda _: job(next(states))})
    out = io.StringIO()
    options = build_parser().parse_args(["events", JOB, "--follow"])
    assert events(options, fake.service(), out=out, sleep=lambda _: None) == Exit.OK
    assert [line.split()[2] for line in out.getvalue().splitlines()] == ["submitted", "began", "succeeded"]


def token(**more: object) -> Json:
    made = {"id": "token_0123456789abcdef", "name": "trainer a", "scope": "trainer", "is_expired": False}
    return made | {"created_at": "2026-01-02T03:04:05.678Z", "expires_at": None} | more


def test_a_token_is_made_listed_and_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeService(
        {
            "POST /v1/tokens": (201, token(secret="sbt_once")),
            "GET /v1/tokens": {
                "tokens": [token(), token(expires_at="2026-01-03T00:00:00Z", is_expired=True)],
                "next_page_token": None,
            },
            "DELETE /v1/tokens/token_0123456789abcdef": (204, None),
        }
    )
    parse = build_parser().parse_args
    made = parse(["tokens", "create", "--name", "trainer a", "--scope", "trainer", "--expires-days", "3"])
    assert create_token(made, fake.service()) == Exit.OK
    assert fake.sent() == {"name": "trainer a", "scope": "trainer", "expires_days": 3.0}
    assert capsys.readouterr().out.split() == ["token_0123456789abcdef", "sbt_once"]
    assert list_tokens(parse(["tokens", "list"]), fake.service()) == Exit.OK
    out = capsys.readouterr().out
    assert "never" in out
    assert "2026-01-03 00:00:00 (ended)" in out
    assert "sbt_" not in out
    assert delete_token(parse(["tokens", "delete", "token_0123456789abcdef"]), fake.service()) == Exit.OK


def test_a_scope_that_is_none_is_refused_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, CommandError)):
        build_parser().parse_args(["tokens", "create", "--name", "x", "--scope", "root"])
    assert "invalid choice" in capsys.readouterr().err
