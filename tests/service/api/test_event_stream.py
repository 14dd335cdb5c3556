"""Events as server-sent events, on the URL of the list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
from starlette.requests import Request

from superbatch_server.service.access.auth import is_still_user
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.jobs import delete_job
from superbatch_server.service.catalog.queue import request_cancel
from superbatch_server.service.following.event_stream import KEEPALIVE_COMMENT, stream_events
from tests.service.api.world import World, answered, problem
from tests.service.running import running_api, wait_until

STREAM = {"Accept": "text/event-stream"}


def always() -> bool:
    return True


def messages(text: str) -> list[dict[str, str]]:
    """Return the messages of a stream as a browser reads them."""
    blocks = [block for block in text.split("\n\n") if block]
    return [dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":")) for block in blocks]


def cancelled(world: World) -> str:
    job_id = world.submit()
    answered(world.client.post(f"/v1/jobs/{job_id}:cancel"), 200)
    return job_id


def test_a_job_that_is_over_is_streamed_to_its_end(world: World) -> None:
    job_id = cancelled(world)
    response = world.client.get(f"/v1/jobs/{job_id}/events", headers=STREAM)
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *found, last = messages(response.text)
    listed = world.get(f"/v1/jobs/{job_id}/events")["events"]
    assert int(first["retry"]) > 0
    assert [json.loads(message["data"]) for message in found] == listed
    assert [int(message["id"]) for message in found] == [event["id"] for event in listed]
    assert last == {"event": "end", "data": "CANCELLED"}


def test_a_broken_stream_goes_on_behind_its_last_event(world: World) -> None:
    job_id = cancelled(world)
    first, last = world.get(f"/v1/jobs/{job_id}/events")["events"]
    path = f"/v1/jobs/{job_id}/events"
    again = world.client.get(path, headers=STREAM | {"Last-Event-ID": str(first["id"])})
    assert [json.loads(message["data"])["id"] for message in messages(again.text)[1:-1]] == [last["id"]]
    over = world.client.get(path, headers=STREAM | {"Last-Event-ID": str(last["id"])})
    assert over.status_code == 204, "a browser asks no more"
    for text in ("x", "-1", "9" * 30, "1.5"):
        problem(world.client.get(path, headers=STREAM | {"Last-Event-ID": text}), "invalid_request", "Last-Event-ID")


def test_without_the_header_it_is_a_list_and_an_unknown_job_an_error(world: World) -> None:
    job_id = cancelled(world)
    for accept in ("application/json", "*/*"):
        assert "events" in world.get(f"/v1/jobs/{job_id}/events", headers={"Accept": accept})
    problem(world.client.get("/v1/jobs/x/events", headers=STREAM), "not_found")


async def _next(stream: AsyncIterator[bytes], kind: str) -> dict[str, str]:
    async with asyncio.timeout(10):
        async for part in stream:
            if part != KEEPALIVE_COMMENT:
                found = messages(part.decode())[0]
                if found.get("event") == kind:
                    return found
    raise AssertionError("the stream ended")


def test_a_new_event_comes_when_it_happens(world: World) -> None:
    job_id = world.submit()

    def happen() -> None:
        with write(world.engine) as connection:
            add_event(connection, job_id, "news", "line one\nline two", {"n": 1})

    def end() -> None:
        with write(world.engine) as connection:
            request_cancel(connection, job_id)

    async def follow() -> list[Any]:
        stream = stream_events(world.engine, world.app.state.deployment.wakeups, job_id, after=0, is_allowed=always)
        found: list[Any] = [await _next(stream, "job")]
        await asyncio.to_thread(happen)
        found.append(json.loads((await _next(stream, "job"))["data"]))
        await asyncio.to_thread(end)
        found += [await _next(stream, "job"), await _next(stream, "end"), [part async for part in stream]]
        return found

    _, news, _, ended, rest = asyncio.run(follow())
    assert (news["kind"], news["message"]) == ("news", "line one\nline two")
    assert ended["data"] == "CANCELLED"
    assert rest == []


def test_a_silent_job_sends_signs_of_life_and_a_deleted_one_ends(world: World) -> None:
    job_id = world.submit()

    async def follow() -> list[bytes]:
        stream = stream_events(
            world.engine,
            world.app.state.deployment.wakeups,
            job_id,
            after=10**6,
            is_allowed=always,
            keep_alive_s=0.01,
        )
        async with asyncio.timeout(10):
            found = [await anext(stream) for _ in range(3)]
            await asyncio.to_thread(forget)
            return found + [part async for part in stream]

    def forget() -> None:
        with write(world.engine) as connection:
            request_cancel(connection, job_id)
        with write(world.engine) as connection:
            delete_job(connection, job_id)

    found = asyncio.run(follow())
    assert KEEPALIVE_COMMENT in found
    assert messages(found[-1].decode())[0]["event"] == "end"


def test_a_stream_ends_with_its_token(world: World) -> None:
    job_id = world.submit()
    token = world.post("/v1/tokens", {"name": "reader", "scope": "read"}, status=201)
    reader = {"type": "http", "method": "GET", "app": world.app, "query_string": b"", "path": "/"}
    reader["headers"] = [(b"authorization", f"Bearer {token['secret']}".encode())]
    is_allowed = partial(is_still_user, Request(reader))

    async def follow() -> list[bytes]:
        wakeups = world.app.state.deployment.wakeups
        stream = stream_events(world.engine, wakeups, job_id, after=0, is_allowed=is_allowed)
        async with asyncio.timeout(10):
            found = [await anext(stream), await anext(stream)]
            await asyncio.to_thread(world.client.delete, f"/v1/tokens/{token['id']}")
            return found + [part async for part in stream]

    retry, event = asyncio.run(follow())
    assert "retry" in messages(retry.decode())[0]
    assert messages(event.decode())[0]["event"] == "job"


def test_streams_hold_no_thread_and_let_go_when_the_client_leaves(one_world: World) -> None:
    job_id = one_world.submit()
    one_world.settings.data_dir.joinpath("real").mkdir()
    with running_api(one_world.engine, one_world.settings.data_dir / "real") as settings:
        url = f"{settings.service_url}/v1/jobs/{job_id}/events"
        headers = STREAM | {"Authorization": "Bearer the-users-token"}
        with httpx.Client(trust_env=False, headers={"Authorization": headers["Authorization"]}) as other:

            def open_streams() -> float:
                text = other.get(f"{settings.service_url}/metrics").text
                return float(text.split("\nsuperbatch_open_streams ")[1].split("\n")[0])

            clients = [httpx.Client(trust_env=False, headers=headers) for _ in range(60)]
            streams = [client.stream("GET", url) for client in clients]
            for stream in streams:
                assert stream.__enter__().status_code == 200
            assert open_streams() == 60
            assert other.get(f"{settings.service_url}/v1/jobs").status_code == 200, "more streams than threads"
            for stream, client in zip(streams, clients, strict=True):
                stream.__exit__(None, None, None)
                client.close()
            wait_until(lambda: open_streams() == 0, "closed streams are forgotten")
