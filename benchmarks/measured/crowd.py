"""Many clients of one service in one process, light enough not to be what is measured; run as a script.

    python crowd.py pollers URL TOKEN_FILE JOB NUMBER       long-poll the job's manifest to its end
    python crowd.py viewers URL TOKEN_FILE SECONDS NUMBER SUBMIT_JSON PATH...

Viewers open the paths in turn, one every 2 s each, as the script of a page does, with the ETag that they have; one more
client submits a job every half second. The last line is JSON: for pollers `[[seq, time.monotonic() of arrival], ...]`,
for viewers `{"pages": {path: [milliseconds]}, "submit": [milliseconds]}`.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

VIEW_S = 2.0
SUBMIT_S = 0.5


@dataclass
class Client:
    """One kept-alive connection."""

    address: tuple[str, int]
    token: str
    etags: dict[str, str] = field(default_factory=dict)
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, *, method: str = "GET", body: bytes = b"") -> tuple[int, bytes, float]:
        """Return status, body and the moment at which the first byte of the answer came."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self.address)
        reader, writer = self._streams
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.address[0]}", f"Authorization: Bearer {self.token}"]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        if path in self.etags:
            lines.append(f"If-None-Match: {self.etags[path]}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        came_s = time.monotonic()
        status = int(head[0].split()[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        if "etag" in headers:
            self.etags[path] = headers["etag"]
        if headers.get("connection") == "close":
            writer.close()
            self._streams = None
        return status, content, came_s


async def poll(client: Client, job: str) -> list[tuple[int, float]]:
    """Return when each batch of the job was told of."""
    arrivals: list[tuple[int, float]] = []
    after, history = 0, ""
    while True:
        client.etags.clear()
        status, content, came_s = await client.ask(f"/v1/jobs/{job}/manifest?after={after}&wait=30{history}")
        if status != 200:
            raise RuntimeError(f"manifest: {status} {content[:300]!r}")
        page = json.loads(content)
        history = f"&history={page['history_id']}"
        for segment in page["segments"]:
            seqs = range(max(after, segment["first_seq"]), segment["first_seq"] + segment["num_batches"])
            arrivals += [(seq, came_s) for seq in seqs]
            after = seqs.stop
        if page.get("end"):
            return arrivals


async def view(client: Client, paths: list[str], stop_s: float, taken: dict[str, list[float]]) -> None:
    """Open pages until `stop_s`."""
    await asyncio.sleep(random.uniform(0, VIEW_S))
    turn = random.randrange(len(paths))
    while (began_s := time.monotonic()) < stop_s:
        path = paths[turn % len(paths)]
        status, content, _ = await client.ask(path)
        if status not in (200, 304):
            raise RuntimeError(f"{path}: {status} {content[:300]!r}")
        taken[path].append(1000 * (time.monotonic() - began_s))
        turn += 1
        await asyncio.sleep(max(0.0, began_s + VIEW_S - time.monotonic()))


async def submit(client: Client, body: bytes, stop_s: float) -> list[float]:
    """Submit jobs until `stop_s`; return the milliseconds of each."""
    taken = []
    while (began_s := time.monotonic()) < stop_s:
        status, content, _ = await client.ask("/v1/jobs", method="POST", body=body)
        if status != 202:
            raise RuntimeError(f"submit: {status} {content[:300]!r}")
        taken.append(1000 * (time.monotonic() - began_s))
        await asyncio.sleep(max(0.0, began_s + SUBMIT_S - time.monotonic()))
    return taken


async def main(arguments: list[str]) -> object:
    """Do what the arguments ask for."""
    kind, url, token_file, subject, number, *rest = arguments
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    token = Path(token_file).read_text().strip()
    clients = [Client((parts.hostname, parts.port), token) for _ in range(int(number))]
    if kind == "pollers":
        return [pair for pairs in await asyncio.gather(*(poll(one, subject) for one in clients)) for pair in pairs]
    stop_s = time.monotonic() + float(subject)
    pages: dict[str, list[float]] = defaultdict(list)
    views = [view(one, rest[1:], stop_s, pages) for one in clients]
    submitter = Client((parts.hostname, parts.port), token)
    submitted, *_ = await asyncio.gather(submit(submitter, rest[0].encode(), stop_s), *views)
    return {"pages": pages, "submit": submitted}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1:]))))
