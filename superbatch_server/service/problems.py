"""Every error as one body: RFC 9457 with a stable `code`. Nothing of a lower library or of the code leaks out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from superbatch_server.schemas import errors
from superbatch_server.service.database_faults import DATABASE_ERRORS, fault_of

log = logging.getLogger("superbatch.api")

MEDIA_TYPE = "application/problem+json"
_SHOWN_CHARS = 80
_MAX_SHOWN = 20

_KIND_OF_STATUS = {
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    408: errors.RequestTimeout,
    413: errors.BodyTooLarge,
    429: errors.TooManyRequests,
    503: errors.Unavailable,
}
_KIND_OF_CODE = {kind.code: kind for kind in (errors.UnsafeKey,)}
"""Errors of field types that have a code of their own; pydantic carries it as the error's type."""

_RULES = {
    "missing": ("must be given", "Add it"),
    "extra_forbidden": ("is no field of this body", "Remove it, or correct its name"),
}


class Problem(BaseModel):
    """The body of every error (RFC 9457). Programs match on `code`; people read `detail`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="urn:superbatch:problem:<code>")
    title: str
    status: int
    detail: str = Field(description="Rule; what was got; where; what to do.")
    instance: str = Field(description="Path of the request.")
    code: str


def problem_response(
    error: errors.ApiError,
    instance: str,
    *,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> JSONResponse:
    """Return the answer that an error stands for, with further members of the body where there are any."""
    body: dict[str, object] = {
        "type": f"urn:superbatch:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "instance": instance,
        "code": error.code,
        **error.extensions(),
        **(members or {}),
    }
    named = dict(headers or {})
    if error.status == errors.Unauthorized.status:
        named["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        named.setdefault("Retry-After", str(error.retry_after_s))
    return JSONResponse(body, status_code=error.status, media_type=MEDIA_TYPE, headers=named)


def install_problem_handlers(app: FastAPI) -> None:
    """Make the app answer every error with a problem body."""
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)


def answer_to(error: Exception, *, method: str, path: str) -> JSONResponse:
    """Return the answer to an error that no handler of the app has seen: it rose in front of the routes."""
    if isinstance(error, DATABASE_ERRORS):
        return _database_problem(error, method, path)
    return _internal_problem(method, path)


async def _answer_own(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.ApiError)
    return problem_response(error, request.url.path)


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    kind = _KIND_OF_CODE.get(found[0]["type"], errors.Validation)
    lines = [_sentence(each) for each in found[:_MAX_SHOWN]]
    places = [_place(each["loc"]) for each in found[:_MAX_SHOWN]]
    more = f" ({len(found) - 1} more in `errors`)" if len(found) > 1 else ""
    listed = [{"field": place, "detail": line} for place, line in zip(places, lines, strict=True)]
    return problem_response(kind(lines[0] + more), request.url.path, members={"errors": listed})


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind = _KIND_OF_STATUS.get(error.status_code)
    if kind is None:
        kind = errors.Internal if error.status_code >= 500 else errors.InvalidRequest
    sentence = _HTTP_SENTENCES.get(kind, "a request must be one that the service can read")
    got = f"{request.method[:20]} {request.url.path[:200]!r}"
    message = f"{sentence}; got {got}. The requests are listed at /docs."
    return problem_response(kind(message), request.url.path, headers=error.headers)


_HTTP_SENTENCES: dict[type[errors.ApiError], str] = {
    errors.NotFound: "a path must be one of the API's",
    errors.MethodNotAllowed: "a path must be asked with one of its methods",
    errors.BodyTooLarge: "a request body must stay below the limit",
    errors.RequestTimeout: "a request body must come in without long pauses",
}


async def _answer_database(request: Request, error: Exception) -> JSONResponse:
    return _database_problem(error, request.method, request.url.path)


def _database_problem(error: Exception, method: str, path: str) -> JSONResponse:
    fault = fault_of(error)
    if fault is None:
        log.error("the catalog refused a statement of the service's own", exc_info=error)
        return _internal_problem(method, path)
    log.warning("the catalog did not do what it was asked: %s", error)
    return problem_response(fault, path)


async def _answer_unknown(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
    return _internal_problem(request.method, request.url.path)


def _internal_problem(method: str, path: str) -> JSONResponse:
    problem = errors.Internal(
        f"the service must answer every request; this one failed inside ({method[:20]} {path[:200]}). "
        "The service's log has the details, under the X-Request-Id of this answer."
    )
    return problem_response(problem, path)


_ANSWERS: dict[type[Exception], Any] = {
    errors.ApiError: _answer_own,
    RequestValidationError: _answer_validation,
    HTTPException: _answer_http,
    **dict.fromkeys(DATABASE_ERRORS, _answer_database),
    Exception: _answer_unknown,
}


def _sentence(found: Mapping[str, Any]) -> str:
    """Return one pydantic error as *rule; got; where; what to do*."""
    place, kind = _place(found["loc"]), str(found["type"])
    message = str(found["msg"]).removeprefix("Value error, ")
    if kind == "json_invalid":
        reason = str(found.get("ctx", {}).get("error", "another text")).lower()
        return f"a body must be JSON in UTF-8; got {reason} (body, character {found['loc'][-1]}). Correct it."
    if kind in _RULES:
        rule, remedy = _RULES[kind]
        got = "nothing" if kind == "missing" else _shown(found["input"])
        return f"{place} {rule}; got {got} (field {place}). {remedy}."
    if "; got" in message:
        return f"{message} (field {place})."
    rule = message[:1].lower() + message[1:]
    return f"{place}: {rule}; got {_shown(found.get('input'))} (field {place}). See /docs for what it may be."


def _place(location: Sequence[int | str]) -> str:
    parts = [part for part in location[1:] if not str(part).startswith("function-")]
    names = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts]
    inside = "".join(names).lstrip(".")
    return inside if location[0] == "body" and inside else f"{location[0]} {inside}".strip()


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
