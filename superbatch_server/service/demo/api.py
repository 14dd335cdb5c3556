"""The REST API as the demo uses it: what a user would send with curl, plus waiting with a progress bar."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self, cast

import httpx

JsonObject = dict[str, object]

_FINAL = ("SUCCEEDED", "FAILED", "CANCELLED", "READY", "INVALID")


class DemoFailed(Exception):
    """A step of the demo did not reach its end; the message says which and why."""


class Api:
    """A thin client: one method per thing that the demo does."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str) -> JsonObject:
        """GET a JSON object."""
        return self._answer(self._http.get(path))

    def post(self, path: str, body: Mapping[str, object]) -> JsonObject:
        """POST a JSON object."""
        return self._answer(self._http.post(path, json=dict(body)))

    def _answer(self, response: httpx.Response) -> JsonObject:
        if response.is_error:
            raise DemoFailed(f"{response.request.method} {response.request.url.path}: {response.text}")
        return cast("JsonObject", response.json())

    def wait_ready(self, path: str, *, limit_s: float = 120) -> JsonObject:
        """Poll a data set or a model until it is READY."""
        stop = time.monotonic() + limit_s
        while time.monotonic() < stop:
            found = self.get(path)
            if found["state"] == "READY":
                return found
            if found["state"] in _FINAL:
                raise DemoFailed(f"{path} is {found['state']}: {found.get('error')}")
            time.sleep(0.1)
        raise DemoFailed(f"{path} was not ready after {limit_s:.0f} s")

    def check_running(self, job: str) -> JsonObject:
        """Return the job; raise when it failed."""
        found = self.get(f"/v1/jobs/{job}")
        if found["state"] in ("FAILED", "CANCELLED"):
            raise DemoFailed(f"job {job} is {found['state']}: {found.get('error')}")
        return found

    def wait_job(self, job: str, *, limit_s: float = 900) -> JsonObject:
        """Poll a job until it has SUCCEEDED."""
        stop = time.monotonic() + limit_s
        while time.monotonic() < stop:
            found = self.check_running(job)
            if found["state"] == "SUCCEEDED":
                return found
            time.sleep(0.2)
        raise DemoFailed(f"job {job} had not ended after {limit_s:.0f} s")


def say(sentence: str) -> None:
    """Print one plain sentence."""
    print(sentence, flush=True)


def read_token(data_dir: Path) -> str:
    """Return the user's token that the service made at its first start."""
    return (data_dir / "token").read_text().strip()
