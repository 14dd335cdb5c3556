"""Resumable uploads: what is kept, where one goes on, what is refused, and what is swept away."""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest

from superbatch_server.service.settings import Settings
from superbatch_server.service.upkeep.upload_sweep import GRACE_S, MAX_UNDER_WAY, remove_unneeded
from superbatch_server.storage.uploads import Uploads
from tests.service.api.world import Json, World, answered, problem, safetensors_of, sha256

WEIGHTS = safetensors_of(7.0)


@pytest.fixture
def job(world: World) -> str:
    """A job with a pushed learner and nine batches published."""
    job = world.submit(world.pushed_spec())
    world.publish(job, 9)
    return job


def begin(world: World, job: str, content: bytes = WEIGHTS) -> Json:
    return world.post(f"/v1/jobs/{job}/uploads", {"sha256": sha256(content), "size_bytes": len(content)})


def put(world: World, job: str, part: bytes, offset: int, *, content: bytes = WEIGHTS) -> httpx.Response:
    return world.client.put(f"/v1/jobs/{job}/uploads/{sha256(content)}", params={"offset": offset}, content=part)


def complete(world: World, job: str, content: bytes = WEIGHTS) -> httpx.Response:
    return world.client.post(f"/v1/jobs/{job}/uploads/{sha256(content)}:complete", json={})


def uploaded(world: World, job: str, content: bytes = WEIGHTS) -> Json:
    """Upload in one part and return the file's reference."""
    begin(world, job, content)
    answered(put(world, job, content, 0, content=content), 200)
    file: Json = answered(complete(world, job, content), 200)["file"]
    return file


def push(world: World, job: str, file: Json, trained_seq: int = 1) -> httpx.Response:
    return world.client.post(f"/v1/jobs/{job}/checkpoints", json={"trained_seq": trained_seq, "files": [file]})


def files(world: World) -> list[str]:
    folder = world.settings.uploads_dir
    return sorted(path.name for path in folder.glob("*/*") if path.is_file())


def sweep(world: World, *, after_s: float = 0.0) -> list[str]:
    """Sweep as the supervisor would this much later; return what went."""
    uploads = Uploads(world.settings.uploads_dir)
    now_s = max((found.touched_s for found in uploads.all()), default=0.0) + after_s
    removed = remove_unneeded(world.engine, uploads, world.settings, clock=lambda: now_s)
    return [found.sha256 for found in removed]


def test_an_upload_in_parts_becomes_a_checkpoint(world: World, job: str) -> None:
    begun = begin(world, job)
    assert (begun["id"], begun["received_bytes"], begun["file"]) == (sha256(WEIGHTS), 0, None)
    answered(put(world, job, WEIGHTS[:30], 0), 200)
    assert answered(put(world, job, WEIGHTS[30:], 30), 200)["received_bytes"] == len(WEIGHTS)
    done = answered(complete(world, job), 200)
    assert done["file"] == {
        "role": "weights",
        "root": "uploads",
        "key": f"{job}/{sha256(WEIGHTS)}.safetensors",
        "sha256": sha256(WEIGHTS),
    }
    found = answered(push(world, job, done["file"]), 202)
    assert (found["state"], found["sha256"]) == ("RECEIVED", sha256(WEIGHTS))
    path = world.settings.uploads_dir / done["file"]["key"]
    assert path.read_bytes() == WEIGHTS
    assert world.settings.runtime().roots["uploads"] == world.settings.uploads_dir.as_uri(), "drivers read it there"


def test_an_upload_that_breaks_at_any_byte_goes_on_there_after_a_restart(world: World, job: str) -> None:
    for broken_at in (0, 1, 7, 8, 9, 40, len(WEIGHTS) - 1, len(WEIGHTS)):
        content = safetensors_of(float(broken_at), note="n" * 20)
        begin(world, job, content)
        if broken_at:
            answered(put(world, job, content[:broken_at], 0, content=content), 200)
        world.restart()
        assert begin(world, job, content)["received_bytes"] == broken_at
        found = world.get(f"/v1/jobs/{job}/uploads/{sha256(content)}")
        assert found["received_bytes"] == broken_at
        answered(put(world, job, content[broken_at:], broken_at, content=content), 200)
        assert answered(complete(world, job, content), 200)["is_complete"]


def test_a_part_that_came_already_is_answered_as_done(world: World, job: str) -> None:
    begin(world, job)
    for part, offset in ((WEIGHTS[:30], 0), (WEIGHTS[:30], 0), (WEIGHTS[5:20], 5), (b"", 3)):
        assert answered(put(world, job, part, offset), 200)["received_bytes"] == 30
    answered(put(world, job, WEIGHTS[30:], 30), 200)
    for _ in range(2):
        assert answered(complete(world, job), 200)["is_complete"]
        assert answered(put(world, job, WEIGHTS[30:], 30), 200)["is_complete"], "its answer may have been lost"
    problem(put(world, job, b"other", 30), "wrong_offset")


def test_other_bytes_or_a_part_too_early_or_too_long_are_refused_and_change_nothing(world: World, job: str) -> None:
    begin(world, job)
    answered(put(world, job, WEIGHTS[:30], 0), 200)
    for part, offset in ((b"x" * 30, 0), (WEIGHTS[:40], 0), (WEIGHTS[40:], 40), (WEIGHTS[30:] + b"x", 30)):
        problem(put(world, job, part, offset), "wrong_offset", "Go on at byte 30")
    answered(put(world, job, b"", 30), 200)
    answered(put(world, job, WEIGHTS[30:], 30), 200)
    assert answered(complete(world, job), 200)["is_complete"]


def digest_of(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def send(world: World, job: str, part: bytes, offset: int, **digests: str) -> httpx.Response:
    """Put a part with digests in its headers."""
    headers = {name.replace("_", "-"): value for name, value in digests.items()}
    path = f"/v1/jobs/{job}/uploads/{sha256(WEIGHTS)}"
    return world.client.put(path, params={"offset": offset}, content=part, headers=headers)


def test_a_part_that_lies_about_its_digest_is_refused_and_nothing_of_it_is_kept(world: World, job: str) -> None:
    begin(world, job)
    first, rest = WEIGHTS[:30], WEIGHTS[30:]
    answered(send(world, job, first, 0, content_digest=digest_of(first), repr_digest=digest_of(WEIGHTS)), 200)
    said = ("Content-Digest", sha256(rest), sha256(first), "byte 30")
    problem(send(world, job, rest, 30, content_digest=digest_of(first)), "digest_mismatch", *said)
    problem(send(world, job, rest, 30, repr_digest=digest_of(rest)), "digest_mismatch", "Repr-Digest", "whole file")
    problem(send(world, job, rest, 30, content_digest="sha-256=:x:"), "validation", "RFC 9530")
    assert world.get(f"/v1/jobs/{job}/uploads/{sha256(WEIGHTS)}")["received_bytes"] == 30
    both = f"md5=:AAAA:, {digest_of(rest)}"
    answered(send(world, job, rest, 30, content_digest=both), 200)
    answered(send(world, job, rest, 30, content_digest="md5=:AAAA:"), 200)
    assert answered(complete(world, job), 200)["is_complete"]


def test_head_says_how_far_an_upload_is(world: World, job: str) -> None:
    path = f"/v1/jobs/{job}/uploads/{sha256(WEIGHTS)}"
    assert world.client.head(path).status_code == 404
    begin(world, job)
    answered(put(world, job, WEIGHTS[:30], 0), 200)
    headers = world.client.head(path).headers
    found = {name: headers[name] for name in ("upload-offset", "upload-length", "upload-complete", "cache-control")}
    assert found == {
        "upload-offset": "30",
        "upload-length": str(len(WEIGHTS)),
        "upload-complete": "?0",
        "cache-control": "no-store",
    }
    answered(put(world, job, WEIGHTS[30:], 30), 200)
    answered(complete(world, job), 200)
    assert world.client.head(path).headers["upload-complete"] == "?1"
    assert [found["id"] for found in world.get(f"/v1/jobs/{job}/uploads")["uploads"]] == [sha256(WEIGHTS)]


def test_an_upload_is_given_up_whole_or_not_but_not_while_a_checkpoint_refers_to_it(world: World, job: str) -> None:
    path = f"/v1/jobs/{job}/uploads/{sha256(WEIGHTS)}"
    for step in (lambda: begin(world, job), lambda: uploaded(world, job)):
        step()
        assert world.client.delete(path).status_code == 204
        problem(world.client.delete(path), "not_found")
        assert files(world) == []
    pushed = answered(push(world, job, uploaded(world, job)), 202)
    problem(world.client.delete(path), "in_use", pushed["id"])
    world.verdict(job, pushed["id"], ok=False, reason="not_finite")
    assert world.client.delete(path).status_code == 204
    problem(push(world, job, {"role": "weights", "root": "uploads", "key": f"{job}/{sha256(WEIGHTS)}.safetensors",
                              "sha256": sha256(WEIGHTS)}), "object_missing")  # fmt: skip


def test_of_a_push_and_a_deletion_that_race_one_wins(world: World, job: str) -> None:
    for turn in range(6):
        content = safetensors_of(float(turn))
        file = uploaded(world, job, content)
        path = f"/v1/jobs/{job}/uploads/{sha256(content)}"
        with ThreadPoolExecutor(2) as pool:
            pushing = pool.submit(push, world, job, file, 1)
            deleting = pool.submit(world.client.delete, path)
        outcome = (pushing.result().status_code, deleting.result().status_code)
        assert outcome in {(202, 409), (422, 204)}
        assert (world.settings.uploads_dir / file["key"]).exists() == (outcome[0] == 202)


def test_a_full_disk_is_told_and_the_part_is_sent_again(
    world: World, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(world, job)
    answered(put(world, job, WEIGHTS[:30], 0), 200)
    real = os.pwrite

    def full(descriptor: int, content: memoryview, offset: int) -> int:
        if offset > 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content[:10], offset)

    monkeypatch.setattr(os, "pwrite", full)
    response = put(world, job, WEIGHTS[30:], 30)
    problem(response, "insufficient_storage", "No space left", "superbatch gc")
    assert int(response.headers["retry-after"]) > 0
    monkeypatch.undo()
    assert world.get(f"/v1/jobs/{job}/uploads/{sha256(WEIGHTS)}")["received_bytes"] == 30, "nothing of it was kept"
    answered(put(world, job, WEIGHTS[30:], 30), 200)
    assert answered(complete(world, job), 200)["is_complete"]


def test_a_part_above_the_limit_is_refused(world: World, job: str) -> None:
    content = bytes(9 << 20)
    limit = begin(world, job, content)["max_part_bytes"]
    problem(put(world, job, content[: limit + 1], 0, content=content), "body_too_large")
    answered(put(world, job, content[:limit], 0, content=content), 200)


def test_the_same_bytes_twice_are_one_upload_and_are_sent_once(world: World, job: str) -> None:
    file = uploaded(world, job)
    again = begin(world, job)
    assert (again["is_complete"], again["file"], again["received_bytes"]) == (True, file, len(WEIGHTS))
    assert answered(complete(world, job), 200)["file"] == file
    assert files(world) == [f"{sha256(WEIGHTS)}.safetensors"]
    first, second = (answered(push(world, job, file), 202) for _ in range(2))
    assert first == second


def test_an_upload_that_is_not_whole_cannot_be_completed(world: World, job: str) -> None:
    begin(world, job)
    answered(put(world, job, WEIGHTS[:-1], 0), 200)
    problem(complete(world, job), "upload_incomplete", f"{len(WEIGHTS) - 1} of {len(WEIGHTS)}")
    answered(put(world, job, WEIGHTS[-1:], len(WEIGHTS) - 1), 200)
    assert answered(complete(world, job), 200)["is_complete"]


def test_bytes_that_are_not_the_announced_ones_are_forgotten_and_noted(world: World, job: str) -> None:
    begin(world, job)
    answered(put(world, job, WEIGHTS[:-1] + b"\x01", 0), 200)
    problem(complete(world, job), "digest_mismatch", sha256(WEIGHTS))
    assert files(world) == []
    noted = world.get(f"/v1/jobs/{job}/events")["events"][-1]
    assert noted["kind"] == "checkpoint_refused"
    assert noted["message"].startswith("digest_mismatch: ")
    assert uploaded(world, job)["sha256"] == sha256(WEIGHTS), "it may be sent anew"


@pytest.mark.parametrize(
    ("content", "code"),
    [(pickle.dumps({"w": list(range(9))}), "pickle_refused"), (WEIGHTS[:-2], "not_safetensors")],
)
def test_what_is_no_weights_is_refused_before_it_gets_a_name(world: World, job: str, content: bytes, code: str) -> None:
    begin(world, job, content)
    answered(put(world, job, content, 0, content=content), 200)
    problem(complete(world, job, content), code)
    assert files(world) == []


def test_an_upload_belongs_to_one_job(world: World, job: str) -> None:
    file = uploaded(world, job)
    other = world.submit(world.pushed_spec())
    problem(push(world, other, file, 0), "wrong_job", "Upload the file to this job")
    problem(world.client.get(f"/v1/jobs/{other}/uploads/{sha256(WEIGHTS)}"), "not_found")
    own = uploaded(world, other)
    answered(push(world, other, own, 0), 202)
    answered(push(world, job, file, 0), 202)


def test_a_job_without_a_pushed_learner_and_an_unknown_one_take_no_upload(world: World) -> None:
    body = {"sha256": sha256(WEIGHTS), "size_bytes": len(WEIGHTS)}
    fixed = world.submit()
    problem(world.client.post(f"/v1/jobs/{fixed}/uploads", json=body), "wrong_state", "learner.updates")
    problem(world.client.post("/v1/jobs/job_0123456789abcdef/uploads", json=body), "not_found")
    problem(put(world, fixed, WEIGHTS, 0), "not_found", "POST uploads")


def test_nothing_outside_the_folder_is_named(world: World, job: str) -> None:
    for name in ("%2e%2e%2fx", "A" * 64, "0" * 63):
        assert world.client.get(f"/v1/jobs/{job}/uploads/{name}").status_code in (404, 422)
    world.settings.uploads_dir.joinpath("elsewhere").mkdir(parents=True)
    world.settings.uploads_dir.joinpath("elsewhere", f"{sha256(WEIGHTS)}.safetensors").write_bytes(WEIGHTS)
    problem(world.client.get(f"/v1/jobs/elsewhere/uploads/{sha256(WEIGHTS)}"), "not_found")
    problem(push(world, job, {**uploaded(world, job), "key": f"{job}/../x"}), "unsafe_key")


def test_another_size_begins_anew_where_nothing_is_there_and_takes_no_parts_away(world: World, job: str) -> None:
    other = {"sha256": sha256(WEIGHTS), "size_bytes": 9}
    world.post(f"/v1/jobs/{job}/uploads", other)
    begin(world, job)
    answered(put(world, job, WEIGHTS[:30], 0), 200)
    problem(world.client.post(f"/v1/jobs/{job}/uploads", json=other), "conflict", str(len(WEIGHTS)), "30 bytes")
    assert begin(world, job)["received_bytes"] == 30
    assert world.client.delete(f"/v1/jobs/{job}/uploads/{sha256(WEIGHTS)}").status_code == 204
    assert world.post(f"/v1/jobs/{job}/uploads", other)["size_bytes"] == 9
    assert len(files(world)) == 1


@pytest.mark.parametrize("is_complete", [False, True])
def test_an_upload_that_is_being_written_is_not_given_up_and_nobody_waits(
    world: World, job: str, is_complete: bool
) -> None:
    begin(world, job)
    if is_complete:
        uploaded(world, job)
    path = f"/v1/jobs/{job}/uploads/{sha256(WEIGHTS)}"
    [part] = (world.settings.uploads_dir / job).iterdir()
    with part.open("r+b") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        problem(world.client.delete(path), "in_use", "part is being written")
        world.submit()
    assert world.client.delete(path).status_code == 204


def test_simultaneous_beginnings_keep_the_quota(tmp_path: Path) -> None:
    world = World(tmp_path, upload_quota_bytes=len(WEIGHTS))
    try:
        job = world.submit(world.pushed_spec())
        body = {"sha256": sha256(WEIGHTS), "size_bytes": len(WEIGHTS)}
        uploads = Uploads(world.settings.uploads_dir)
        with ThreadPoolExecutor(1) as pool:
            with uploads.reserving():
                second = pool.submit(world.client.post, f"/v1/jobs/{job}/uploads", json=body)
                with pytest.raises(TimeoutError):
                    second.result(timeout=0.5)
                uploads.begin(job, sha256(b"first"), size_bytes=len(WEIGHTS))
            problem(second.result(), "upload_quota", f"{len(WEIGHTS)} too many")
    finally:
        world.close()


def test_a_job_has_so_many_uploads_under_way_and_no_more(world: World, job: str) -> None:
    contents = [safetensors_of(float(number)) for number in range(MAX_UNDER_WAY + 1)]
    for content in contents[:-1]:
        begin(world, job, content)
    last = {"sha256": sha256(contents[-1]), "size_bytes": len(contents[-1])}
    problem(world.client.post(f"/v1/jobs/{job}/uploads", json=last), "upload_quota", f"{MAX_UNDER_WAY} uploads")
    begin(world, job, contents[0])
    uploaded(world, job, contents[0])
    begin(world, job, contents[-1])


def test_a_disk_that_fails_for_a_moment_loses_no_upload(
    world: World, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(world, job)
    answered(put(world, job, WEIGHTS, 0), 200)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("superbatch_server.storage.uploads.file_digest", broken)
    problem(complete(world, job), "unavailable", "Input/output error")
    monkeypatch.undo()
    assert answered(complete(world, job), 200)["is_complete"]


def test_uploads_beyond_the_quota_are_refused_with_the_numbers(tmp_path: Path) -> None:
    world = World(tmp_path, upload_quota_bytes=3 * len(WEIGHTS) - 1)
    try:
        job = world.submit(world.pushed_spec())
        world.publish(job, 1)
        begin(world, job)
        uploaded(world, job, safetensors_of(1.0))
        body = {"sha256": sha256(b"third"), "size_bytes": len(WEIGHTS)}
        said = (f"{world.settings.upload_quota_bytes} bytes", "1 too many")
        problem(world.client.post(f"/v1/jobs/{job}/uploads", json=body), "upload_quota", *said)
        assert begin(world, job)["received_bytes"] == 0, "one that is under way may go on"
        os.utime(next(world.settings.uploads_dir.rglob("*.safetensors")), (0, 0))  # nobody pushed it, long ago
        answered(world.client.post(f"/v1/jobs/{job}/uploads", json=body), 202)
    finally:
        world.close()


def test_an_abandoned_upload_is_removed_after_its_expiry_and_not_before(world: World, job: str) -> None:
    begin(world, job)
    assert sweep(world, after_s=world.settings.upload_expiry_s - 1) == []
    assert sweep(world, after_s=world.settings.upload_expiry_s + 1) == [sha256(WEIGHTS)]
    problem(put(world, job, WEIGHTS, 0), "not_found")
    assert uploaded(world, job)["sha256"] == sha256(WEIGHTS), "and may be begun again"


def test_files_stay_while_their_checkpoint_may_score(world: World, job: str) -> None:
    kept = world.settings.uploads_kept
    contents = [safetensors_of(float(seq)) for seq in range(kept + 3)]
    for content in contents[: kept + 1]:
        pushed = answered(push(world, job, uploaded(world, job, content), 1), 202)
        world.verdict(job, pushed["id"])
    rejected = answered(push(world, job, uploaded(world, job, contents[kept + 1]), 2), 202)
    world.verdict(job, rejected["id"], ok=False, reason="not_finite")
    answered(push(world, job, uploaded(world, job, contents[kept + 2]), 3), 202)
    assert sweep(world, after_s=GRACE_S - 60) == []
    assert sweep(world, after_s=GRACE_S + 60) == [sha256(contents[kept + 1])], "REJECTED"
    last = answered(push(world, job, uploaded(world, job, safetensors_of(99.0)), 2), 202)
    world.verdict(job, last["id"])
    assert sweep(world, after_s=GRACE_S + 60) == [sha256(contents[0])], "beyond the newest SUPERSEDED"
    assert sweep(world, after_s=10 * 365 * 86_400) == [], "a clock that jumps takes nothing in use"


def test_a_file_that_one_of_two_checkpoints_needs_stays(world: World, job: str) -> None:
    file = uploaded(world, job)
    first, second = (answered(push(world, job, file, trained_seq), 202)["id"] for trained_seq in (1, 2))
    world.verdict(job, first, ok=False, reason="not_finite")
    assert sweep(world, after_s=GRACE_S + 60) == [], "the other is still to be tried"
    world.verdict(job, second, ok=False, reason="not_finite")
    assert sweep(world, after_s=GRACE_S + 60) == [sha256(WEIGHTS)]


def test_a_clock_that_went_back_removes_nothing(world: World, job: str) -> None:
    begin(world, job)
    assert sweep(world, after_s=-10 * 86_400) == []
    assert begin(world, job)["received_bytes"] == 0


def test_a_root_may_not_take_the_name_of_uploads(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="may not be named 'uploads'"):
        Settings(data_dir=tmp_path, roots={"uploads": str(tmp_path)})
