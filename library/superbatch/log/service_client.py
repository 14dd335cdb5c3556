"""Requests to the service: repeated with back-off where that can help, errors as our own."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import httpx

from superbatch.formats.canonical import JsonObject, JsonValue, canonical_json, parse_json
from superbatch.formats.errors import CorruptFile, HistoryChanged, InvalidInput, ServiceError, ServiceUnreachable
from superbatch.log.back_off import NUM_ATTEMPTS, BackOff

MAX_DOCUMENT_BYTES = 256 << 20
SLOWEST_BYTES_S = 8 << 10
"""Bytes per second below which an answer is given up: a list of 100 kB in 12 s beyond the time-out."""
_REPEATED = frozenset({408, 429, 500, 502, 503, 504})
_OTHER_LOG_CODES = frozenset({HistoryChanged.code, "other_history", "wrong_job"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said: status, body, ETag."""

    status: int
    content: bytes
    etag: str | None = None

    def problem(self) -> JsonObject:
        """Return the RFC 9457 body of an error, or an empty object."""
        try:
            value = parse_json(self.content, where="error body")
        except CorruptFile:
            return {}
        return value if isinstance(value, Mapping) else {}

    def error(self) -> ServiceError | HistoryChanged:
        """Return the error that this answer stands for."""
        problem = self.problem()
        code = problem.get("code")
        detail = problem.get("detail") or problem.get("title") or self.content[:200].decode("utf-8", "replace")
        if code in _OTHER_LOG_CODES:
            return HistoryChanged(str(detail))
        return ServiceError(self.status, code if isinstance(code, str) else f"http_{self.status}", str(detail))


class ServiceClient:
    """Sends requests below one base address.

    The token goes to that address only, never to another host that a link leads to.

    Args:
        url: address of the service, for example http://127.0.0.1:8000.
        token: bearer token; None for none.
        client: an httpx client with proxies or certificates of its own; it is not closed here. None for a plain one,
            which ignores the environment.
        num_attempts: tries per request before ServiceUnreachable.
        timeout_s: longest silence of the service, on top of what a long poll asks for. An answer that comes more
            slowly than SLOWEST_BYTES_S after that time counts as silence.
        rng: source of the jitter in the pauses.
        sleep: called with a pause in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        client: httpx.Client | None = None,
        num_attempts: int = NUM_ATTEMPTS,
        timeout_s: float = 30.0,
        rng: random.Random | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        try:
            self.url = httpx.URL(url.rstrip("/") + "/")
        except httpx.InvalidURL as error:
            raise InvalidInput(f"the service's address must be a URL; {error}, got {url!r}.") from error
        if self.url.scheme not in ("http", "https") or not self.url.host:
            raise InvalidInput(f"the service's address must begin with http:// or https://; got {url!r}.")
        self._authorization = {} if token is None else {"Authorization": f"Bearer {token.strip()}"}
        self._client = httpx.Client(trust_env=False) if client is None else client
        self._owns_client = client is None
        self._num_attempts = num_attempts
        self._timeout_s = timeout_s
        self._is_closed = False
        self._back_off = BackOff(rng=rng, sleep=sleep)

    def close(self) -> None:
        """Close the connections that this client opened; what another thread asks for then ends with InvalidInput."""
        self._is_closed = True
        if self._owns_client:
            self._client.close()

    def get(
        self,
        link: str,
        *,
        base: str = "",
        params: Mapping[str, str | int | float] | None = None,
        headers: Mapping[str, str] | None = None,
        accepted: Collection[int] = (200,),
        wait_s: float = 0.0,
        max_bytes: int = MAX_DOCUMENT_BYTES,
    ) -> Answer:
        """GET `link`, which may be relative to `base`, itself relative to the service's address.

        Raises:
            ServiceError, HistoryChanged: a status that is not accepted.
            ServiceUnreachable: no usable answer after all tries.
            CorruptFile: a body of more than max_bytes.
        """
        url = self._joined(base, link)
        if params:
            url = url.copy_merge_params(dict(params))
        return self._send(
            "GET", url, headers=headers or {}, body=None, accepted=accepted, wait_s=wait_s, limit=max_bytes
        )

    def send_json(
        self,
        method: str,
        link: str,
        body: JsonValue,
        *,
        headers: Mapping[str, str] | None = None,
        num_attempts: int | None = None,
    ) -> Answer:
        """PUT or POST a JSON body that may be repeated without harm; any 2xx is accepted.

        `num_attempts` is for this request; None for the client's own.

        Raises:
            ServiceError, HistoryChanged, ServiceUnreachable, CorruptFile: as `get`.
        """
        typed = {"Content-Type": "application/json", **(headers or {})}
        url = self._joined("", link)
        content = canonical_json(body)
        return self._send(
            method,
            url,
            headers=typed,
            body=content,
            accepted=range(200, 300),
            wait_s=0.0,
            limit=MAX_DOCUMENT_BYTES,
            num_attempts=num_attempts,
        )

    def send_bytes(self, method: str, link: str, content: bytes, *, params: Mapping[str, str | int]) -> Answer:
        """PUT raw bytes that may be sent again without harm; any 2xx is accepted.

        Raises:
            ServiceError, HistoryChanged, ServiceUnreachable, CorruptFile: as `get`.
        """
        typed = {"Content-Type": "application/octet-stream"}
        url = self._joined("", link).copy_merge_params(dict(params))
        return self._send(
            method, url, headers=typed, body=content, accepted=range(200, 300), wait_s=0.0, limit=MAX_DOCUMENT_BYTES
        )

    def pause(self, failures: int) -> None:
        """Sleep before the next try after some failures: doubling, at most 30 s, the last half of it at random."""
        self._back_off.pause(failures)

    def _send(
        self,
        method: str,
        url: httpx.URL,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        accepted: Collection[int],
        wait_s: float,
        limit: int,
        num_attempts: int | None = None,
    ) -> Answer:
        if url.scheme not in ("http", "https") or not url.host:
            raise InvalidInput(f"a link must lead to http or https; got {url}. Check the service's links.")
        request_headers = {**headers, **(self._authorization if self._is_own(url) else {})}
        last = "no try was made"
        num_attempts = self._num_attempts if num_attempts is None else num_attempts
        for failures in range(1, num_attempts + 1):
            self._require_open()
            try:
                answer = self._send_once(
                    method, url, headers=request_headers, body=body, timeout_s=self._timeout_s + wait_s, limit=limit
                )
            except httpx.RequestError as error:
                last = f"{type(error).__name__}: {error}"
            else:
                if answer.status in accepted:
                    return answer
                if answer.status not in _REPEATED:
                    raise answer.error()
                last = str(answer.error())
            if failures < num_attempts and not self._is_closed:
                logging.getLogger(__name__).warning(
                    "try %d of %d failed, trying again: %s (%s %s)", failures, num_attempts, last, method, url
                )
                self.pause(failures)
        self._require_open()
        raise ServiceUnreachable(
            f"the service must answer within {num_attempts} tries; the last one: {last} ({method} {url}). "
            "Check that it runs and that the address is right, then resume from the saved state."
        )

    def _send_once(
        self,
        method: str,
        url: httpx.URL,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
        limit: int,
    ) -> Answer:
        content = bytearray()
        began_s = time.monotonic()
        with self._client.stream(method, url, headers=dict(headers), content=body, timeout=timeout_s) as response:
            for part in response.iter_bytes():
                content += part
                if time.monotonic() - began_s > timeout_s + len(content) / SLOWEST_BYTES_S:
                    raise httpx.ReadTimeout(f"{len(content)} bytes came in {time.monotonic() - began_s:.0f} s")
                if len(content) > limit:
                    raise CorruptFile(f"the answer may have {limit} bytes; got more ({method} {url}).")
            return Answer(response.status_code, bytes(content), response.headers.get("ETag"))

    def _require_open(self) -> None:
        if self._is_closed:
            raise InvalidInput(f"a log that was closed asks the service nothing more ({self.url}). Open it again.")

    def _joined(self, base: str, link: str) -> httpx.URL:
        try:
            return self.url.join(base).join(link)
        except httpx.InvalidURL as error:
            raise InvalidInput(
                f"a link must be a URL; {error}, got {link[:200]!r}. Check the service's links."
            ) from error

    def _is_own(self, url: httpx.URL) -> bool:
        return (url.scheme, url.host, url.port) == (self.url.scheme, self.url.host, self.url.port)
