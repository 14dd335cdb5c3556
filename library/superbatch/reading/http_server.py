"""Byte ranges of files behind HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

import httpx

from superbatch.formats.errors import InvalidInput
from superbatch.formats.keys import checked_key
from superbatch.reading.per_process import PerProcess
from superbatch.reading.ranges import ByteRange
from superbatch.reading.sources import Answer

SLOWEST_BYTES_S = 8 << 10
"""Bytes per second below which an answer is given up once `timeout_s` has passed."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class _Found(NamedTuple):
    """The part of a file that a server sent; `size_bytes` is that of the whole file, None where it does not say."""

    offset: int
    content: bytes
    size_bytes: int | None
    version: str


class HttpServer:
    """Reads files below an address with `Range` requests, one per range.

    A server that ignores `Range` is noticed by its status, before the file is sent.

    Args:
        url: http or https address of the root; the key of a file is appended to its path, a query is kept.
        headers: sent with every request, for example `Authorization`.
        timeout_s: longest silence within a request, and what a slow answer gets beyond SLOWEST_BYTES_S.
    Raises:
        InvalidInput: another kind of address.
    """

    is_remote = True

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 30.0) -> None:
        self._url = urlsplit(url)
        if self._url.scheme not in ("http", "https") or not self._url.netloc:
            raise InvalidInput(f"a server has an http or https address; got {url!r}.")
        sent = {**(headers or {}), "Accept-Encoding": "identity"}  # a compressed answer has other bytes
        self._timeout_s = timeout_s
        self._client = PerProcess(partial(httpx.Client, headers=sent, timeout=timeout_s, follow_redirects=True))

    def read_ranges(self, key: str, ranges: Sequence[ByteRange]) -> Answer:
        """Return the bytes of each range of the file `key`.

        Raises:
            InvalidInput: a key that could leave its root.
            OSError: no connection, another status than 206, another range than asked for, an answer cut off.
        """
        answer = Answer([], None, "")
        for wanted in ranges:
            if not wanted.length:
                answer.parts.append(b"")
                continue
            last = wanted.offset + wanted.length - 1
            found = self._get(key, f"bytes={wanted.offset}-{last}", num_bytes=wanted.length)
            if found.offset != wanted.offset or len(found.content) != wanted.length:
                raise OSError(
                    f"{self._shown(key)} gave bytes [{found.offset}, {found.offset + len(found.content)}) "
                    f"instead of [{wanted.offset}, {last + 1}), or ends before byte {last + 1}"
                )
            answer = Answer([*answer.parts, found.content], found.size_bytes, found.version)
        return answer

    def read_tail(self, key: str, num_bytes: int) -> Answer:
        """Return the last `num_bytes` of the file `key`, or all of a shorter one.

        Raises: InvalidInput, OSError.
        """
        found = self._get(key, f"bytes=-{num_bytes}", num_bytes=num_bytes)
        if found.size_bytes is None or found.size_bytes != found.offset + len(found.content):
            raise OSError(f"{self._shown(key)} gave another part of the file than its end")
        return Answer([found.content], found.size_bytes, found.version)

    def close(self) -> None:
        """Close the connections of this process."""
        if client := self._client.take():
            client.close()

    def _get(self, key: str, range_header: str, *, num_bytes: int) -> _Found:
        path = f"{self._url.path.rstrip('/')}/{quote(checked_key(key, where=self._url.netloc))}"
        url = urlunsplit(self._url._replace(path=path))
        try:
            with self._client.get().stream("GET", url, headers={"Range": range_header}) as response:
                return _found(response, num_bytes=num_bytes, timeout_s=self._timeout_s, shown=self._shown(key))
        except httpx.HTTPError as error:
            raise OSError(f"{self._shown(key)}: {type(error).__name__} {error}") from error

    def _shown(self, key: str) -> str:
        """Return the address without user, password and query, which may be secrets."""
        return f"{self._url.scheme}://{self._url.hostname}{self._url.path.rstrip('/')}/{key}"


def _found(response: httpx.Response, *, num_bytes: int, timeout_s: float, shown: str) -> _Found:
    """Return the part that an answer holds, of at most `num_bytes`; raise OSError for anything else."""
    version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise OSError(f"{shown} was sent with Content-Encoding {response.headers['Content-Encoding']}")
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not match:
            raise OSError(f"{shown} was sent as a part without a valid Content-Range")
        size_bytes = None if match[3] == "*" else int(match[3])
        return _Found(
            int(match[1]), _body(response, num_bytes=num_bytes, timeout_s=timeout_s, shown=shown), size_bytes, version
        )
    if response.status_code == 200:
        size_bytes = int(response.headers.get("Content-Length", "0"))
        if not 0 < size_bytes <= num_bytes:
            raise OSError(f"{shown} was sent whole: the server ignores Range (status 200 instead of 206)")
        return _Found(0, _body(response, num_bytes=num_bytes, timeout_s=timeout_s, shown=shown), size_bytes, version)
    if response.status_code == 416 and response.headers.get("Content-Range") == "bytes */0":
        return _Found(0, b"", 0, version)
    raise OSError(f"{shown} answered {response.status_code} {response.reason_phrase}")


def _body(response: httpx.Response, *, num_bytes: int, timeout_s: float, shown: str) -> bytes:
    parts, left, began_s = [], num_bytes, time.monotonic()
    for part in response.iter_raw():
        parts.append(part)
        left -= len(part)
        if time.monotonic() - began_s > timeout_s + (num_bytes - left) / SLOWEST_BYTES_S:
            raise OSError(f"{shown} came too slowly: {num_bytes - left} bytes in {time.monotonic() - began_s:.0f} s")
        if left < 0:
            raise OSError(f"{shown} was sent with more than the {num_bytes} bytes asked for")
    return b"".join(parts)
