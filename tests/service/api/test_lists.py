"""Batch lists: whole, by range, cached for ever."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.tables import segments
from superbatch_server.service.routes.ranges import NoSuchRange, wanted_range
from tests.service.api.world import World, problem, sha256


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("bytes=0-0", range(1)),
        ("bytes=2-4", range(2, 5)),
        ("bytes=7-", range(7, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-30", range(10)),
        ("bytes=8-100", range(8, 10)),
        (" Bytes = 1 - 2 ", range(1, 3)),
        ("bytes=0-1,3-4", None),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("rows=1-2", None),
        ("bytes=x-", None),
    ],
)
def test_single_ranges_are_cut_out_and_others_ignored(header: str | None, wanted: range | None) -> None:
    assert wanted_range(header, 10) == wanted


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_range_behind_the_end_has_no_bytes(header: str) -> None:
    with pytest.raises(NoSuchRange):
        wanted_range(header, 10)


@pytest.fixture
def published(world: World) -> tuple[str, bytes]:
    job = world.submit()
    (content,) = world.publish(job)
    manifest = world.get(f"/v1/jobs/{job}/manifest")
    return f"/v1/jobs/{job}/{manifest['segments'][0]['list']}", content


def ask(world: World, path: str, **headers: str) -> Any:
    return world.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_a_list_is_sent_whole_with_its_digest(world: World, published: tuple[str, bytes]) -> None:
    path, content = published
    response = ask(world, path)
    assert (response.status_code, response.content) == (200, content)
    assert response.headers["etag"] == f'"{sha256(content)}"'
    assert response.headers["accept-ranges"] == "bytes"
    assert "immutable" in response.headers["cache-control"]
    assert response.headers["content-length"] == str(len(content))


def test_a_range_is_sent_alone(world: World, published: tuple[str, bytes]) -> None:
    path, content = published
    response = ask(world, path, Range="bytes=5-14")
    assert (response.status_code, response.content) == (206, content[5:15])
    assert response.headers["content-range"] == f"bytes 5-14/{len(content)}"
    tail = ask(world, path, Range="bytes=-8")
    assert tail.content == content[-8:]


def test_a_range_of_another_version_is_not_mixed_in(world: World, published: tuple[str, bytes]) -> None:
    path, content = published
    assert ask(world, path, Range="bytes=5-14", If_Range='"other"').content == content
    assert ask(world, path, Range="bytes=5-14", If_Range=f'"{sha256(content)}"').content == content[5:15]


def test_a_range_behind_the_end_is_refused_with_the_length(world: World, published: tuple[str, bytes]) -> None:
    path, content = published
    response = ask(world, path, Range=f"bytes={len(content)}-")
    problem(response, "range_refused", f"of {len(content)} bytes")
    assert response.headers["content-range"] == f"bytes */{len(content)}"


def test_a_list_that_the_reader_has_is_not_sent(world: World, published: tuple[str, bytes]) -> None:
    path, content = published
    response = ask(world, path, If_None_Match=f'"{sha256(content)}"')
    assert (response.status_code, response.content) == (304, b"")


@pytest.mark.parametrize("name", ["x.parquet", "..%2f..%2fcatalog.sqlite", "%2fetc%2fpasswd"])
def test_only_published_names_are_served(world: World, name: str) -> None:
    problem(world.client.get(f"/v1/jobs/{world.submit()}/lists/{name}"), "not_found")


def test_a_list_that_the_store_lost_is_told(world: World, published: tuple[str, bytes]) -> None:
    path, content = published
    (file,) = (world.settings.data_dir / "store").rglob("*.parquet")
    file.write_bytes(content[:-1])
    problem(ask(world, path), "unavailable", file.name)
    file.unlink()
    problem(ask(world, path), "unavailable", "0 of")


def test_a_list_of_more_than_one_read_is_sent_whole(world: World) -> None:
    job = world.submit()
    world.publish(job)
    long = bytes(range(256)) * 5000
    path = world.get(f"/v1/jobs/{job}/manifest")["segments"][0]["list"]
    world.store.put_new("long", long)
    with write(world.engine) as connection:
        connection.execute(update(segments).values(list_key="long", bytes=len(long), sha256=sha256(long)))
    assert ask(world, f"/v1/jobs/{job}/{path}").content == long
    assert ask(world, f"/v1/jobs/{job}/{path}", Range="bytes=1048570-1048580").content == long[1048570:1048581]


def test_a_range_of_a_large_number(world: World, published: tuple[str, bytes]) -> None:
    path, content = published
    problem(ask(world, path, Range=f"bytes={'9' * 150}-"), "range_refused")
    assert ask(world, path, Range=f"bytes=5-{'9' * 150}").content == content[5:]
    problem(ask(world, path, Range=f"bytes={'9' * 5000}-"), "validation", "header Range")
