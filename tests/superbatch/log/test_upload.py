"""Uploads by the library to the real API, over connections that break and a service that forgets."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from superbatch.formats.errors import InvalidInput, ServiceError, ServiceUnreachable
from superbatch.log.push import Place, push_weights
from superbatch.log.service_client import ServiceClient
from superbatch.log.upload import upload_weights
from tests.service.api.world import TOKEN, URL, World, safetensors_of, sha256

WEIGHTS = safetensors_of(7.0)
Hook = Callable[[httpx.Request, int], httpx.Response | None]


class Wire:
    """Carries requests to the app. `before` may answer or break instead; `after` loses the answer of what was done."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: list[tuple[str, int]] = []
        self.before: Hook = lambda request, number: None
        self.loses_answers = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.sent.append((request.method, len(request.content)))
        answer = self.before(request, len(self.sent))
        if answer is not None:
            return answer
        found = self.world.client.request(
            request.method, str(request.url), content=request.content, headers=dict(request.headers)
        )
        if self.loses_answers and len(self.sent) % 2:
            raise httpx.ReadError("the answer was lost")
        return httpx.Response(found.status_code, content=found.content)

    def bytes_put(self) -> int:
        return sum(size for method, size in self.sent if method == "PUT")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def job(world: World) -> str:
    job = world.submit(world.pushed_spec())
    world.publish(job, 4)
    return job


@pytest.fixture
def wire(world: World) -> Wire:
    return Wire(world)


def client(wire: Wire, num_attempts: int = 3) -> ServiceClient:
    transport = httpx.Client(transport=httpx.MockTransport(wire))
    return ServiceClient(
        URL, token=TOKEN, client=transport, num_attempts=num_attempts, rng=random.Random(1), sleep=lambda _: None
    )


def kept(world: World, job: str) -> bytes:
    return (world.settings.uploads_dir / f"{job}/{sha256(WEIGHTS)}.safetensors").read_bytes()


def breaking_from(number: int) -> Hook:
    def broken(request: httpx.Request, at: int) -> httpx.Response | None:
        if at >= number:
            raise httpx.ConnectError("the connection broke")
        return None

    return broken


def test_a_file_is_uploaded_and_becomes_a_checkpoint_by_bytes_and_by_path(
    world: World, job: str, wire: Wire, tmp_path: Path
) -> None:
    pushed = push_weights(client(wire), job, WEIGHTS, trained_seq=2)
    assert kept(world, job) == WEIGHTS
    listed = world.get(f"/v1/jobs/{job}/checkpoints")["checkpoints"]
    assert [(found["id"], found["trained_seq"], found["sha256"]) for found in listed] == [
        (pushed.checkpoint_id, 2, sha256(WEIGHTS))
    ]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(WEIGHTS)
    assert push_weights(client(wire), job, path, trained_seq=2) == pushed
    assert wire.bytes_put() == len(WEIGHTS), "the same bytes are sent once"


@pytest.mark.parametrize("num_requests", range(1, 12))
def test_an_upload_that_broke_off_goes_on_in_the_next_process(
    world: World, job: str, wire: Wire, num_requests: int
) -> None:
    part_bytes = -(-len(WEIGHTS) // 9)  # begin, nine parts, complete: eleven requests
    wire.before = breaking_from(num_requests)
    with pytest.raises(ServiceUnreachable, match="the connection broke"):
        upload_weights(client(wire, 1), job, WEIGHTS, part_bytes=part_bytes)
    wire.before = lambda request, number: None
    world.restart()
    wire.sent.clear()
    upload_weights(client(wire), job, WEIGHTS, part_bytes=part_bytes)
    assert kept(world, job) == WEIGHTS
    assert wire.bytes_put() == max(0, len(WEIGHTS) - max(0, num_requests - 2) * part_bytes)


def test_lost_answers_cost_no_second_sending_of_what_arrived(world: World, job: str, wire: Wire) -> None:
    wire.loses_answers = True
    upload_weights(client(wire), job, WEIGHTS, part_bytes=10)
    assert kept(world, job) == WEIGHTS


def test_an_upload_that_the_service_forgot_begins_again(world: World, job: str, wire: Wire) -> None:
    def forgetting(request: httpx.Request, number: int) -> httpx.Response | None:
        if number == 4:
            for path in world.settings.uploads_dir.rglob("*.part"):
                path.unlink()
        return None

    wire.before = forgetting
    upload_weights(client(wire), job, WEIGHTS, part_bytes=10)
    assert kept(world, job) == WEIGHTS


def test_a_part_that_was_spoiled_on_the_disk_is_found_and_sent_again(world: World, job: str, wire: Wire) -> None:
    def spoiling(request: httpx.Request, number: int) -> httpx.Response | None:
        if number == 3:
            part = next(world.settings.uploads_dir.rglob("*.part"))
            part.write_bytes(bytes(len(part.read_bytes())))  # what a power cut may leave
        return None

    wire.before = spoiling
    upload_weights(client(wire), job, WEIGHTS, part_bytes=10)
    assert kept(world, job) == WEIGHTS


def test_two_senders_of_the_same_bytes_do_not_hinder_each_other(world: World, job: str, wire: Wire) -> None:
    other = Wire(world)

    def overtaken(request: httpx.Request, number: int) -> httpx.Response | None:
        if number == 3:
            upload_weights(client(other), job, WEIGHTS, part_bytes=17)
        return None

    wire.before = overtaken
    upload_weights(client(wire), job, WEIGHTS, part_bytes=10)
    assert kept(world, job) == WEIGHTS


def test_a_service_that_takes_parts_and_does_not_grow_is_given_up(world: World, job: str, wire: Wire) -> None:
    def stuck(request: httpx.Request, number: int) -> httpx.Response | None:
        fields = {"received_bytes": 0, "max_part_bytes": 100, "file": None}
        return httpx.Response(200, json=fields) if request.method == "PUT" else None

    wire.before = stuck
    with pytest.raises(ServiceUnreachable, match="must grow with each part"):
        upload_weights(client(wire), job, WEIGHTS)


def test_a_refusal_is_raised_and_not_repeated(world: World, wire: Wire) -> None:
    fixed = world.submit()
    with pytest.raises(ServiceError, match=r"learner\.updates"):
        push_weights(client(wire), fixed, WEIGHTS, trained_seq=0)
    assert len(wire.sent) == 1


def test_a_pickle_is_not_even_uploaded(job: str, wire: Wire) -> None:
    with pytest.raises(InvalidInput, match=r"as torch.save writes them.*superbatch convert"):
        push_weights(client(wire), job, b"PK\x03\x04" + bytes(60), trained_seq=1)
    assert wire.sent == []


def test_a_place_is_named_whole_or_not_at_all() -> None:
    assert Place.of(None, None, None) is None
    assert Place.of("r", "/r", "k") == Place("r", "/r", "k")
    with pytest.raises(InvalidInput, match="belong together"):
        Place.of("r", None, "k")
