"""Roots: what is read, and what can never be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import pytest
from obstore.store import MemoryStore, S3Store

from superbatch.formats.errors import InvalidInput
from superbatch_server.schemas.errors import ObjectMissing, Unavailable, UnknownRoot, UnsafeKey
from superbatch_server.storage.remote import open_remote
from superbatch_server.storage.roots import LocalRoot, RemoteRoot, Root, find_root, open_roots

if TYPE_CHECKING:
    from obstore.store import S3Config

CONTENT = bytes(range(256)) * 9000  # longer than two reads of a megabyte


@pytest.fixture(params=["local", "remote"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    if request.param == "local":
        (tmp_path / "data/shards").mkdir(parents=True)
        (tmp_path / "data/shards/a.tar").write_bytes(CONTENT)
        return LocalRoot("pool", str(tmp_path / "data"), folder=tmp_path / "data")
    store = MemoryStore()
    obstore.put(store, "shards/a.tar", CONTENT)
    return RemoteRoot("pool", "memory:///", store=store)


def test_an_object_is_read_whole_and_anywhere(root: Root) -> None:
    assert root.read("shards/a.tar") == CONTENT
    with root.open("shards/a.tar") as file:
        assert file.read(10) == CONTENT[:10]
        assert file.seek(-5, os.SEEK_END) == len(CONTENT) - 5
        assert file.read() == CONTENT[-5:]
        assert file.read(1) == b""
        file.seek(2_000_000)
        file.seek(7, os.SEEK_CUR)
        assert file.read(2_000) == CONTENT[2_000_007:2_002_007]


def test_stat_tells_size_and_identity(root: Root) -> None:
    stat = root.stat("shards/a.tar")
    assert stat.size == len(CONTENT)
    assert (stat.etag is None) != (stat.mtime_ns is None)
    assert root.stat("shards/a.tar") == stat


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "./a", "a//b", "a\\b", "C:/x", "a\0b", "a/."])
def test_an_unsafe_key_is_refused_by_its_spelling(root: Root, key: str) -> None:
    for ask in (root.stat, root.open, root.read, *([root.local_path] if isinstance(root, LocalRoot) else [])):
        with pytest.raises(UnsafeKey, match="relative path"):
            ask(key)


def test_a_missing_object_names_key_and_root(root: Root) -> None:
    for ask in (root.stat, root.open, root.read):
        with pytest.raises(ObjectMissing, match=r"shards/b\.tar.*root pool"):
            ask("shards/b.tar")


def test_a_link_out_of_the_root_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "real").write_bytes(b"real")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "in").symlink_to(folder / "real")
    root = open_roots({"pool": str(folder)})["pool"]
    assert root.read("in") == b"real"
    for key in ("out", "up/secret"):
        with pytest.raises(UnsafeKey, match="outside"):
            root.read(key)


def test_a_root_that_is_itself_a_link_is_served(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_bytes(b"a")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    root = open_roots({"pool": f"file://{tmp_path}/link"})["pool"]
    assert root.read("a") == b"a"
    assert root.local_path("a") == (tmp_path / "real/a").resolve()


def test_only_regular_files_are_objects(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    root = open_roots({"pool": str(tmp_path)})["pool"]
    for key in ("folder", "pipe", "folder/x/y"):
        with pytest.raises(ObjectMissing):
            root.open(key)


def test_a_changed_file_has_another_stat(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    root = open_roots({"pool": str(tmp_path)})["pool"]
    before = root.stat("a")
    os.utime(tmp_path / "a", ns=(1, 1))
    assert root.stat("a") != before


def test_an_unknown_root_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownRoot, match=r"'pool', known are \['clean'\].*--root pool="):
        find_root(open_roots({"clean": "/data"}), "pool")


def test_a_place_that_nobody_can_read_is_refused() -> None:
    with pytest.raises(InvalidInput, match="ftp://x/y"):
        open_roots({"pool": "ftp://x/y"})
    with pytest.raises(InvalidInput, match="credentials"):
        open_remote("az://container/prefix", where="root pool")


def test_a_store_that_does_not_answer_is_unavailable() -> None:
    closed: S3Config = {
        "endpoint": "http://127.0.0.1:1",
        "region": "x",
        "access_key_id": "x",
        "secret_access_key": "x",
    }
    store = S3Store("bucket", config=closed, client_options={"allow_http": True}, retry_config={"max_retries": 0})
    root = RemoteRoot("pool", "s3://bucket", store=store)
    for ask in (root.stat, root.open, root.read):
        with pytest.raises(Unavailable, match="root pool"):
            ask("a")
