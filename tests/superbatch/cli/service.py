"""A service of ten lines per resource, over httpx.MockTransport: enough to see what the command line sends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from superbatch.cli.client import HttpService
from superbatch.cli.connection import Connection

Json = dict[str, object]
URL = "http://127.0.0.1:8600"


@dataclass
class FakeService:
    """Answers by (method, path); an answer may be a body, an (status, body) pair, a list of them, or a function."""

    answers: dict[str, object] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.get(f"{request.method} {request.url.path}")
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            return problem(404, "not_found", f"a path must be one of the API's; got {request.url.path!r}.")
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        return httpx.Response(status, json=body)

    def sent(self, index: int = -1) -> Json:
        found: Json = json.loads(self.requests[index].content)
        return found

    def posts(self) -> list[httpx.Request]:
        return [request for request in self.requests if request.method == "POST"]

    def service(self, sleep: Callable[[float], None] = lambda _: None) -> HttpService:
        return HttpService(Connection(URL, "secret"), transport=httpx.MockTransport(self), sleep=sleep)


def problem(status: int, code: str, detail: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": detail, "status": status, "title": "t"})


def job(state: str = "RUNNING", *, next_seq: int = 0, phase: str | None = None, **more: object) -> Json:
    return {
        "id": "job_00000000000000aa", "name": "curate", "state": state, "phase": phase, "next_seq": next_seq,
        "num_batches": 40, "error": None, "error_code": None, "created_at": "2026-01-02T03:04:05.678Z", **more,
    }  # fmt: skip


def stats(**more: object) -> Json:
    return {"filter_ratio": None, "loaded": 0, "trained": 0, "quarantined": {}, "counters": {}, "segments": [], **more}


def event(number: int, kind: str, message: str) -> Json:
    return {"id": number, "at": "2026-01-02T03:04:05.678Z", "kind": kind, "message": message, "fields": {}}
