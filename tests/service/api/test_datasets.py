"""Data sets: registered, verified, never changed; every bad input told with its code."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from superbatch.formats.digests import dataset_fingerprint, weak_shard_fingerprint
from superbatch.formats.shards import ShardTable
from superbatch_server.service.upkeep.verification import verify_pending
from tests.service.api.world import World, answered, problem, sha256, tar_of


def manifest(**changes: Any) -> dict[str, Any]:
    return {"name": "pool", "root": "pool", "shards": [{"key": "a.tar"}]} | changes


def register(world: World, **changes: Any) -> dict[str, Any]:
    """Register, verify, and return what became of it."""
    found = world.post("/v1/datasets", manifest(**changes))
    assert found["state"] == "VERIFYING"
    world.verify()
    return world.get(f"/v1/datasets/{found['id']}")


def invalid(world: World, code: str, *said: str, **changes: Any) -> None:
    found = register(world, **changes)
    assert (found["state"], found["error_code"]) == ("INVALID", code), found
    for text in said:
        assert text in found["error"], found["error"]
    assert ";" in found["error"]


def test_a_data_set_becomes_ready_with_rows_and_fingerprint(world: World) -> None:
    first, second = tar_of(3), tar_of(2, first=10)
    digest = world.put_file("a.tar", first)
    world.put_file("b.tar", second)
    shards = [{"key": "a.tar", "source": "emoji", "sha256": digest}, {"key": "b.tar", "source": "flags"}]
    response = world.client.post("/v1/datasets", json=manifest(shards=shards))
    found = answered(response, 202)
    assert response.headers["location"] == f"/v1/datasets/{found['id']}"
    world.verify()
    found = world.get(response.headers["location"])
    stat = (world.data / "b.tar").stat()
    weak = weak_shard_fingerprint("pool", "b.tar", etag=None, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    fingerprint = dataset_fingerprint(
        format="webdataset",
        towers={"a": "image", "b": "text"},
        caption_field="txt",
        shard_fingerprints=[bytes.fromhex(digest), weak],
    )
    assert (found["state"], found["rows"], found["num_shards"]) == ("READY", 5, 2)
    assert found["fingerprint"] == fingerprint.hex()


def test_the_shard_table_tells_where_every_row_is_and_never_changes(world: World) -> None:
    dataset = world.dataset(rows=(3, 0, 2))
    response = world.client.get(f"/v1/datasets/{dataset}/shards")
    table = ShardTable.from_json(response.content)
    assert [(shard.key, shard.rows, shard.start_index) for shard in table.shards] == [
        ("shard-0.tar", 3, 0),
        ("shard-1.tar", 0, 3),
        ("shard-2.tar", 2, 3),
    ]
    assert table.shards[0].source == "emoji"
    assert "immutable" in response.headers["cache-control"]
    etag = response.headers["etag"]
    again = world.client.get(f"/v1/datasets/{dataset}/shards", headers={"If-None-Match": f'"x", W/{etag}'})
    assert (again.status_code, again.content) == (304, b"")


def test_the_shard_table_of_an_unverified_data_set_is_refused(world: World) -> None:
    found = world.post("/v1/datasets", manifest())
    problem(world.client.get(f"/v1/datasets/{found['id']}/shards"), "dataset_not_ready", "VERIFYING")


def test_rows_of_the_manifest_are_taken_without_reading_the_shard(world: World) -> None:
    world.put_file("a.tar", b"not read")
    assert register(world, shards=[{"key": "a.tar", "rows": 7}])["rows"] == 7


def test_registering_with_a_digest_gives_the_same_fingerprint_wherever_the_shard_lies(world: World) -> None:
    content = tar_of(2)
    digest = world.put_file("a.tar", content)
    world.put_file("elsewhere/b.tar", content)
    first, second = (register(world, shards=[{"key": key, "sha256": digest}]) for key in ("a.tar", "elsewhere/b.tar"))
    assert first["fingerprint"] == second["fingerprint"]


def test_verifying_is_idempotent_and_goes_on_after_what_was_seen(world: World) -> None:
    found = world.post("/v1/datasets", manifest(shards=[{"key": "a.tar"}, {"key": "b.tar"}]))
    world.put_file("a.tar", tar_of(3))
    roots = world.app.state.deployment.roots

    class Stops:
        """A root whose second shard ends the process that looks at it."""

        name, url = "pool", ""

        def __getattr__(self, name: str) -> Any:
            def ask(key: str) -> Any:
                if key == "b.tar":
                    raise KeyboardInterrupt
                return getattr(roots["pool"], name)(key)

            return ask

    with pytest.raises(KeyboardInterrupt):
        verify_pending(world.engine, {"pool": Stops()})
    assert world.get(f"/v1/datasets/{found['id']}")["state"] == "VERIFYING"
    (world.data / "a.tar").unlink()  # seen before, so not read again
    world.put_file("b.tar", tar_of(2))
    assert verify_pending(world.engine, roots)
    assert world.get(f"/v1/datasets/{found['id']}")["rows"] == 5
    assert not verify_pending(world.engine, roots)


def test_a_missing_shard(world: World) -> None:
    invalid(world, "object_missing", "'a.tar'", "root pool")


def test_a_tar_that_is_no_tar(world: World) -> None:
    world.put_file("a.tar", b"<html>not found</html>" * 100)
    invalid(world, "not_a_tar", "a.tar")


def test_a_tar_that_was_cut_off(world: World) -> None:
    world.put_file("a.tar", tar_of(3)[:1200])
    invalid(world, "corrupt_file", "a.tar")


def test_a_shard_of_another_digest(world: World) -> None:
    world.put_file("a.tar", tar_of(3))
    invalid(world, "digest_mismatch", sha256(b""), "a.tar", shards=[{"key": "a.tar", "sha256": sha256(b"")}])


def test_a_link_out_of_the_root(world: World) -> None:
    (world.data / "a.tar").symlink_to("/etc/hostname")
    invalid(world, "unsafe_key", "outside")


def test_a_folder_in_the_place_of_a_shard(world: World) -> None:
    (world.data / "a.tar").mkdir()
    invalid(world, "object_missing", "regular file")


def test_a_root_whose_folder_is_gone(world: World) -> None:
    invalid(world, "object_missing", "root empty", root="empty")


def test_a_data_set_without_rows(world: World) -> None:
    world.put_file("a.tar", tar_of(0))
    invalid(world, "invalid_request", "must have rows")


def test_a_file_that_cannot_be_opened(world: World) -> None:
    (world.data / "a.tar").symlink_to("b.tar")
    (world.data / "b.tar").symlink_to("a.tar")
    invalid(world, "object_missing", "readable", "symbolic links")


def test_an_unknown_root(world: World) -> None:
    problem(world.client.post("/v1/datasets", json=manifest(root="other")), "unknown_root", "'other'", "'pool'")


@pytest.mark.parametrize("key", ["../a.tar", "/a.tar", "a/../b.tar", "{0..1}/../a.tar", "a\\b", "./a.tar"])
def test_a_key_that_could_leave_its_root(world: World, key: str) -> None:
    problem(world.client.post("/v1/datasets", json=manifest(shards=[{"key": key}])), "unsafe_key", "relative path")


def test_the_same_shard_twice(world: World) -> None:
    body = manifest(shards=[{"key": "p-{0..3}.tar"}, {"key": "p-2.tar"}])
    problem(world.client.post("/v1/datasets", json=body), "duplicate_shard", "'p-2.tar'")


def test_a_range_that_runs_backwards(world: World) -> None:
    body = manifest(shards=[{"key": "p-{3..0}.tar"}])
    problem(world.client.post("/v1/datasets", json=body), "invalid_request", "{3..0}")


def test_a_digest_for_several_shards(world: World) -> None:
    body = manifest(shards=[{"key": "p-{0..3}.tar", "sha256": sha256(b"")}])
    problem(world.client.post("/v1/datasets", json=body), "invalid_request", "one shard")


def test_more_shards_than_a_data_set_may_have(world: World) -> None:
    body = manifest(shards=[{"key": "a-{1..60000}"}, {"key": "b-{1..60000}"}])
    problem(world.client.post("/v1/datasets", json=body), "invalid_request", "100,000")


def test_lists_come_in_pages_newest_first(world: World) -> None:
    (old,) = (dataset["id"] for dataset in world.get("/v1/datasets")["datasets"])
    made = [old, *(world.post("/v1/datasets", manifest(name=str(number)))["id"] for number in range(5))]
    seen: list[str] = []
    query = "?page_size=2"
    while query:
        page = world.get(f"/v1/datasets{query}")
        seen += [dataset["id"] for dataset in page["datasets"]]
        token = page["next_page_token"]
        query = f"?page_size=2&page_token={token}" if token else ""
    assert sorted(seen) == sorted(made)
    assert len(seen) == len(made)
    created = [world.get(f"/v1/datasets/{dataset}")["created_at"] for dataset in seen]
    assert created == sorted(created, reverse=True)


def test_a_data_set_that_a_job_uses_cannot_be_deleted(world: World) -> None:
    dataset = world.dataset()
    job = world.submit(world.spec(dataset=dataset))
    problem(world.client.delete(f"/v1/datasets/{dataset}"), "in_use", job)
    world.post(f"/v1/jobs/{job}:cancel", {}, status=200)
    assert world.client.delete(f"/v1/jobs/{job}").status_code == 204
    assert world.client.delete(f"/v1/datasets/{dataset}").status_code == 204
    problem(world.client.get(f"/v1/datasets/{dataset}"), "not_found")


def test_roots_are_listed_with_their_places(world: World) -> None:
    listed = world.get("/v1/roots")["roots"]
    assert listed[1] == {"name": "pool", "url": world.data.as_uri()}
    assert [root["name"] for root in listed] == ["empty", "pool"]


def test_one_that_cannot_be_verified_does_not_hold_up_those_after_it(world: World) -> None:
    class Faulty:
        name = "pool"

        def __getattr__(self, name: str) -> Any:
            raise OSError(5, "input/output error")

    world.put_file("a.tar", tar_of(3))
    bad, good = world.post("/v1/datasets", manifest()), world.post("/v1/datasets", manifest())
    roots = world.app.state.deployment.roots
    assert verify_pending(world.engine, {**roots, "pool": Faulty()})
    verify_pending(world.engine, roots)
    found = {world.get(f"/v1/datasets/{one['id']}")["state"] for one in (bad, good)}
    assert found == {"INVALID", "READY"}
    (invalid_one,) = (
        one for one in world.get("/v1/datasets")["datasets"] if one["id"] in (bad["id"], good["id"]) and one["error"]
    )
    assert invalid_one["error_code"] == "internal"
    assert "got OSError" in invalid_one["error"]


def test_a_catalog_that_does_not_answer_makes_nothing_invalid(world: World) -> None:
    class Locked:
        name = "pool"

        def __getattr__(self, name: str) -> Any:
            raise OperationalError("UPDATE", {}, Exception("database is locked"))

    found = world.post("/v1/datasets", manifest())
    with pytest.raises(OperationalError):
        verify_pending(world.engine, {"pool": Locked()})
    assert world.get(f"/v1/datasets/{found['id']}")["state"] == "VERIFYING"
