"""The log of a job as the service gives it: the manifest by long poll with ETag, lists by their links."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from superbatch.formats.errors import BehindRetention, HistoryChanged
from superbatch.formats.json_fields import as_fields
from superbatch.formats.manifest import Manifest
from superbatch.log.service_client import Answer, ServiceClient

_BEYOND_LOG_CODE = "seq_beyond_log"
"""A cursor further than the log reaches: it is of another history, or of a log that lost its end."""
_LONGEST_MANIFEST_BYTES = 1 << 20  # the contract allows 64 KiB a page


class ServiceSource:
    """Reads one job's log over HTTP; a LogSource."""

    def __init__(self, client: ServiceClient, job: str) -> None:
        self._client = client
        self._job = job
        self._link = f"v1/jobs/{job}/manifest"
        self._newest: tuple[int, str, Manifest] | None = None  # replaced as a whole: two threads may ask

    def manifest(self, next_seq: int, *, history_id: str | None, wait_s: float) -> Manifest:
        """Return the manifest from `next_seq` on; the service holds the answer back while it has no more to say."""
        params: dict[str, str | int | float] = {"after": next_seq, "wait": wait_s}
        if history_id is not None:
            params["history"] = history_id
        newest = self._newest if self._newest is not None and self._newest[0] == next_seq else None
        answer = self._client.get(
            self._link,
            params=params,
            headers={} if newest is None else {"If-None-Match": newest[1]},
            accepted=(200, 304, 409, 410, 422),
            wait_s=wait_s,
            max_bytes=_LONGEST_MANIFEST_BYTES,
        )
        if answer.status == 304 and newest is not None:
            return newest[2]
        if answer.status != 200:
            raise self._refusal(answer, next_seq)
        manifest = Manifest.from_json(answer.content, where=f"manifest of job {self._job}")
        self._newest = None if answer.etag is None else (next_seq, answer.etag, manifest)
        return manifest

    def content(self, link: str, *, max_bytes: int) -> bytes:
        """Return what lies behind a link, relative to the manifest's address."""
        return self._client.get(link, base=self._link, max_bytes=max_bytes).content

    def pause(self, failures: int) -> None:
        """Sleep before the next try, as the client does between its own."""
        self._client.pause(failures)

    def close(self) -> None:
        """Close the connections to the service."""
        self._client.close()

    def _refusal(self, answer: Answer, next_seq: int) -> Exception:
        if answer.status == 409 or answer.problem().get("code") == _BEYOND_LOG_CODE:
            return HistoryChanged(f"the service has another log of job {self._job}: {answer.error()}")
        if answer.status == 410:
            oldest_seq = answer.problem().get("oldest_seq")
            return BehindRetention(next_seq, oldest_seq if isinstance(oldest_seq, int) else None)
        return answer.error()


def fetch_local_roots(client: ServiceClient) -> dict[str, str]:
    """Return the local path per root, for those roots whose address is a file:// URL."""
    listing = as_fields(client.get("v1/roots").content, where="roots")
    urls = {root.text("name"): urlsplit(root.text("url")) for root in listing.objects("roots")}
    return {name: unquote(url.path) for name, url in urls.items() if url.scheme == "file"}
