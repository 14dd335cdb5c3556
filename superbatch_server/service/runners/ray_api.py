"""Ray's Jobs API over HTTP (version 4, Ray 2.9 and newer), as far as a runner needs it. No Ray is imported.

GET    /api/version               -> {"version": "4", ...}
POST   /api/jobs/                 -> {"submission_id": ...}     a known submission_id is refused, with status 500
GET    /api/jobs/                 -> [{...}, ...]
GET    /api/jobs/{id}             -> {"status": ..., "driver_exit_code": ..., "message": ...}
GET    /api/jobs/{id}/logs        -> {"logs": "the whole text"}
POST   /api/jobs/{id}/stop        -> {"stopped": true}          SIGTERM, three seconds later SIGKILL
DELETE /api/jobs/{id}             -> {"deleted": true}          refused while it runs, with status 500
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

_TIMEOUT_S, _CONNECT_S = 10.0, 3.0
_LOGS_TIMEOUT_S = 30.0
_SHOWN = 300


class RayAway(Exception):
    """The cluster did not answer, or not sensibly: the same request may succeed later."""


class RayRefused(Exception):
    """The cluster will not do it: the token is wrong, or the request is."""


class Submission(BaseModel):
    """What the cluster says of a submission; of its many fields, those that a runner reads."""

    model_config = ConfigDict(extra="ignore")

    submission_id: str | None = None
    status: str
    message: str | None = None
    driver_exit_code: int | None = None
    metadata: dict[str, str] | None = None

    @property
    def is_terminal(self) -> bool:
        """True once it has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    def said(self) -> str:
        """Return how it ended, in a few words."""
        if self.status == "STOPPED":
            return "stopped on the cluster"
        code = 0 if self.status == "SUCCEEDED" else self.driver_exit_code
        if code is not None:
            return f"exited with {code}"
        return f"lost by the cluster: {self.message or 'no reason given'}"


class RayJobsApi:
    """The Jobs API of one cluster; safe for several threads.

    Every method raises RayAway or RayRefused.
    """

    def __init__(self, address: str, *, token: str | None, timeout_s: float = _TIMEOUT_S) -> None:
        """`address` is the URL of the dashboard; `token` that of RAY_AUTH_MODE=token."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S))
        self._http = httpx.Client(base_url=address, headers=headers, timeout=timeout, trust_env=False)

    def version(self) -> str:
        """Return the version of the API."""
        return _text(self._answer("GET", "/api/version"), "version")

    def submit(self, body: Mapping[str, Any]) -> None:
        """Submit; a request that got no answer may have been carried out all the same."""
        self._answer("POST", "/api/jobs/", json=body)

    def find(self, submission_id: str) -> Submission | None:
        """Return a submission, None when the cluster does not know it."""
        response = self._send("GET", f"/api/jobs/{submission_id}")
        return None if response.status_code == httpx.codes.NOT_FOUND else _parsed(_checked(response))

    def list(self) -> list[Submission]:
        """Return everything that was submitted by this API."""
        found = _json(self._answer("GET", "/api/jobs/"))
        if not isinstance(found, list):
            raise RayAway("the list of submissions is no list")
        return [_submission(item) for item in found if isinstance(item, dict) and item.get("submission_id")]

    def stop(self, submission_id: str) -> None:
        """Ask a submission to stop; nothing happens where it is unknown or has ended."""
        self._ignoring_unknown("POST", f"/api/jobs/{submission_id}/stop")

    def delete(self, submission_id: str) -> None:
        """Forget a submission that has ended, its environment with it; nothing happens where it is unknown."""
        self._ignoring_unknown("DELETE", f"/api/jobs/{submission_id}")

    def logs(self, submission_id: str) -> str:
        """Return all that the driver has written."""
        return _text(self._answer("GET", f"/api/jobs/{submission_id}/logs", timeout=_LOGS_TIMEOUT_S), "logs")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ignoring_unknown(self, method: str, path: str) -> None:
        response = self._send(method, path)
        if response.status_code != httpx.codes.NOT_FOUND:
            _checked(response)

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        return _checked(self._send(method, path, **options))

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise RayAway(f"{method} {path}: {error or type(error).__name__}") from error


def _checked(response: httpx.Response) -> httpx.Response:
    """Return a good answer. Ray's 500 is also how it refuses; whether the thing was done is to be looked up."""
    if response.is_success:
        return response
    request = response.request
    said = f"{request.method} {request.url.path}: {response.status_code} {response.text.strip()[-_SHOWN:]}"
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.status_code >= 500:
        raise RayAway(said)
    raise RayRefused(said)


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise RayAway(f"{response.request.url.path}: the answer is no JSON") from error


def _text(response: httpx.Response, name: str) -> str:
    found = _json(response)
    if not isinstance(found, dict) or not isinstance(found.get(name), str):
        raise RayAway(f"{response.request.url.path}: the answer has no text {name!r}")
    return str(found[name])


def _parsed(response: httpx.Response) -> Submission:
    return _submission(_json(response))


def _submission(found: Any) -> Submission:
    try:
        return Submission.model_validate(found)
    except ValidationError as error:
        raise RayAway(f"a submission is not as expected: {error.errors()[0]['msg']}") from error
