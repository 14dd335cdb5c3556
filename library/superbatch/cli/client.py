"""Requests of the command line: one answer as fields, collections page by page, each submission exactly once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from superbatch.cli.connection import Connection
from superbatch.formats.canonical import JsonObject
from superbatch.formats.errors import CorruptFile, ServiceUnreachable
from superbatch.formats.json_fields import JsonFields, as_fields

if TYPE_CHECKING:
    import httpx

NUM_ATTEMPTS = 5
"""About four seconds of patience: the API is restarted within two."""

Query = Mapping[str, str | int | float]


class Service(Protocol):
    """What a command needs of the service. Law: a failed call raises ServiceError or ServiceUnreachable."""

    def get(self, path: str, query: Query | None = None) -> JsonFields:
        """Return the resource at `path`."""

    def post(self, path: str, body: JsonObject) -> JsonFields:
        """Submit `body` once, however often the request had to be repeated."""

    def delete(self, path: str) -> None:
        """Forget the resource at `path`."""

    def items(self, path: str, name: str, query: Query | None = None) -> Iterator[JsonFields]:
        """Yield every item of a collection, over all of its pages."""


class HttpService:
    """Service over HTTP. httpx is imported here, so that `superbatch --help` does not wait for it."""

    def __init__(
        self,
        connection: Connection,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpx

        from superbatch.log.service_client import ServiceClient

        # Proxies of the environment are for other hosts, never for a service on this machine.
        self._http = httpx.Client(transport=transport, trust_env=not connection.is_local)
        self.client = ServiceClient(
            connection.url, token=connection.token, client=self._http, num_attempts=NUM_ATTEMPTS, sleep=sleep
        )
        self._url = connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, query: Query | None = None) -> JsonFields:
        """Return the resource at `path`."""
        return self._fields(self.client.get(path.lstrip("/"), params=query).content, f"GET {path}")

    def post(self, path: str, body: JsonObject) -> JsonFields:
        """Submit `body` once: the Idempotency-Key makes a repeated request the same request."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self._fields(
            self.client.send_json("POST", path.lstrip("/"), body, headers=headers).content, f"POST {path}"
        )

    def delete(self, path: str) -> None:
        """Forget the resource at `path`."""
        self.client.send_json("DELETE", path.lstrip("/"), {})

    def items(self, path: str, name: str, query: Query | None = None) -> Iterator[JsonFields]:
        """Yield every item of a collection, over all of its pages."""
        asked: dict[str, str | int | float] = dict(query or {})
        while True:
            page = self.get(path, asked)
            yield from page.objects(name)
            page_token = page.optional_text("next_page_token")
            if not page_token:
                return
            asked["page_token"] = page_token

    def _fields(self, content: bytes, where: str) -> JsonFields:
        try:
            return as_fields(content, where=where)
        except CorruptFile as error:
            raise ServiceUnreachable(
                f"{self._url} must answer with JSON; {where} did not. Is another program listening there?"
            ) from error
