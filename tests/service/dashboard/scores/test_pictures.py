"""`/jobs/{id}/pictures/{dataset_index}`: always a small image, never the original bytes, kept by ETag."""

from __future__ import annotations

import threading
from io import BytesIO
from typing import Any

import anyio
import httpx
import pytest
from anyio.to_thread import current_default_thread_limiter
from PIL import Image

from superbatch_server.service.dashboard.scores import pictures
from superbatch_server.service.dashboard.scores.thumbnails import placeholder
from tests.service.api.world import TOKEN, URL
from tests.service.dashboard.scores.scored_world import ScoredWorld, png
from tests.service.dashboard.scores.test_thumbnails import png_head


def picture(scored: ScoredWorld, row: int, **headers: str) -> httpx.Response:
    answer: httpx.Response = scored.world.client.get(f"/jobs/{scored.job_id}/pictures/{row}", headers=headers)
    return answer


def test_a_row_gets_its_own_picture_small_and_encoded_anew(scored: ScoredWorld) -> None:
    scored.pictures[7] = original = png("blue", (800, 400))
    scored.index()
    answer = picture(scored, 7)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert original not in answer.content
    with Image.open(BytesIO(answer.content)) as small:
        assert small.size == (192, 96)


def test_a_known_picture_is_not_sent_again(scored: ScoredWorld) -> None:
    scored.index()
    etag = picture(scored, 7).headers["etag"]
    (scored.world.data / "pool-000000.tar").unlink()
    again = picture(scored, 7, **{"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_bombs_and_damage_give_a_drawing_that_is_not_kept(scored: ScoredWorld) -> None:
    broken = {1: png_head(30_000, 30_000), 2: png(kind="JPEG")[:200], 3: b"<html><script>alert(1)</script>", 4: b""}
    scored.pictures |= broken
    scored.index()
    for row, said in ((1, b"pixels"), (2, b"damaged"), (3, b"damaged"), (4, b"the row has no")):
        answer = picture(scored, row)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
        assert said in answer.content
        assert "no-store" in answer.headers["cache-control"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert b"<script" not in answer.content


def test_a_shard_that_changed_or_went_away_is_said(scored: ScoredWorld) -> None:
    scored.pictures |= {8: png("green"), 58: png("purple")}
    scored.index()
    changed = scored.world.data / "pool-000000.tar"
    changed.write_bytes(bytes(len(changed.read_bytes())))
    assert b"changed" in picture(scored, 8).content
    (scored.world.data / "pool-000001.tar").unlink()
    assert b"cannot be" in picture(scored, 58).content


def test_a_row_whose_shard_is_not_indexed_yet_has_a_drawing(scored: ScoredWorld) -> None:
    assert b"index file" in picture(scored, 7).content


def test_who_waits_for_a_decoder_is_told_so_and_holds_no_thread_of_the_pages(
    scored: ScoredWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored.pictures |= {row: png("teal", (40 + row, 30)) for row in range(8)}  # made once each, so none is kept yet
    scored.index()
    under_way, go_on = threading.Semaphore(0), threading.Event()

    def slow(*_: Any) -> Any:
        under_way.release()
        go_on.wait(30)
        return placeholder("decoded at last")

    monkeypatch.setattr(pictures, "MAX_WAIT_S", 0.05)
    monkeypatch.setattr(pictures, "_make", slow)
    drawings: list[bytes] = []

    async def ask() -> int:
        transport = httpx.ASGITransport(app=scored.world.app)
        async with (
            httpx.AsyncClient(transport=transport, base_url=URL, headers={"Authorization": f"Bearer {TOKEN}"}) as http,
            anyio.create_task_group() as group,
        ):

            async def one(row: int) -> None:
                drawings.append((await http.get(f"/jobs/{scored.job_id}/pictures/{row}")).content)

            for row in range(pictures.MAX_DECODERS):
                group.start_soon(one, row)
            for _ in range(pictures.MAX_DECODERS):
                assert await anyio.to_thread.run_sync(under_way.acquire, True, 10)
            for row in range(pictures.MAX_DECODERS, 8):
                await one(row)
            held = current_default_thread_limiter().borrowed_tokens
            go_on.set()
        return held

    assert anyio.run(ask) == 0
    assert sum(b"busy" in drawing for drawing in drawings) == 8 - pictures.MAX_DECODERS
    assert sum(b"last" in drawing for drawing in drawings) == pictures.MAX_DECODERS
