"""Logs of attempts by byte cursor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from superbatch_server.schemas.errors import InvalidRequest, LogMissing
from superbatch_server.service.catalog.claims import attempt_ended
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.tables import attempts
from superbatch_server.service.following.attempt_logs import read_log
from tests.service.api.world import World, problem
from tests.service.catalog.builders import claim_it

TEXT = "first\nsecond: größer → 🎉\nthird\n".encode()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "job-1.log"
    path.write_bytes(TEXT)
    return path


@given(content=st.text(max_size=60), limit=st.integers(1, 20))
def test_the_parts_together_are_the_log(tmp_path_factory: pytest.TempPathFactory, content: str, limit: int) -> None:
    path = tmp_path_factory.getbasetemp() / "parts.log"
    path.write_bytes(content.encode())
    limit, found, after = max(limit, 4), "", 0
    while True:
        part = read_log(path, after, limit)
        assert part.next_after - part.after == len(part.content) <= limit
        found, after = found + part.text, part.next_after
        if after == part.size:
            break
    assert found == content


@given(tail=st.integers(1, 60))
def test_a_tail_begins_with_a_whole_character(tmp_path_factory: pytest.TempPathFactory, tail: int) -> None:
    path = tmp_path_factory.getbasetemp() / "tail.log"
    path.write_bytes(TEXT)
    part = read_log(path, -tail, 1000)
    assert TEXT.decode().endswith(part.text)
    assert part.after >= len(TEXT) - tail
    assert part.next_after == part.size == len(TEXT)
    assert "�" not in part.text


def test_what_is_no_text_is_shown_and_passed(tmp_path: Path) -> None:
    path = tmp_path / "binary.log"
    path.write_bytes(b"\xff\xfe\x80\x80ok\xf0\x9f")
    part = read_log(path, 0, 100)
    assert part.text.endswith("ok")
    assert read_log(path, part.next_after, 100).next_after == 8, "the end of a broken character is not waited for"


def test_a_cursor_beyond_the_end(log: Path) -> None:
    assert read_log(log, len(TEXT), 10).content == b""
    with pytest.raises(InvalidRequest, match="within the log; got byte 999"):
        read_log(log, 999, 10)


def test_only_a_regular_file_is_read(log: Path, tmp_path: Path) -> None:
    link, pipe = tmp_path / "link.log", tmp_path / "pipe.log"
    link.symlink_to(log)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path, tmp_path / "none.log"):
        with pytest.raises(LogMissing, match="must be a file"):
            read_log(path, 0, 10)


def with_log(world: World, content: bytes, *, path: str | None = None) -> str:
    """Return a job whose first attempt has this log."""
    job_id = world.submit()
    attempt = claim_it(world.engine)
    place = world.settings.logs_dir / f"{job_id}-{attempt.token}.log"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(content)
    with write(world.engine) as connection:
        connection.execute(update(attempts).values(log_path=path or str(place)))
    return job_id


def test_a_log_is_followed_to_its_end(world: World) -> None:
    job_id = with_log(world, TEXT)
    first = world.get(f"/v1/jobs/{job_id}/logs", params={"limit": 6})
    assert first == {
        "job": job_id, "attempt": 1, "after": 0, "next_after": 6, "size": len(TEXT),
        "is_over": False, "text": "first\n",
    }  # fmt: skip
    rest = world.get(f"/v1/jobs/{job_id}/logs", params={"after": 6})
    assert first["text"] + rest["text"] == TEXT.decode()
    assert not rest["is_over"]
    with write(world.engine) as connection:
        attempt_ended(connection, job_id, 1, "exited with 0")
    assert world.get(f"/v1/jobs/{job_id}/logs", params={"attempt": 1, "after": rest["next_after"]})["is_over"]
    tail = world.get(f"/v1/jobs/{job_id}/logs", params={"after": -6})
    assert tail["text"] == "third\n"


def test_a_job_that_nobody_ran_has_an_empty_log(world: World) -> None:
    job_id = world.submit()
    found = world.get(f"/v1/jobs/{job_id}/logs")
    assert (found["attempt"], found["text"], found["is_over"]) == (0, "", False)
    world.client.post(f"/v1/jobs/{job_id}:cancel")
    assert world.get(f"/v1/jobs/{job_id}/logs")["is_over"]
    problem(world.client.get(f"/v1/jobs/{job_id}/logs?attempt=3"), "not_found", "got 3")


@pytest.mark.parametrize("place", ["/etc/passwd", "{logs}/../token", "{logs}/../../x", "{logs}/link.log"])
def test_no_other_file_is_shown_whatever_the_catalog_says(one_world: World, place: str) -> None:
    secret = one_world.settings.data_dir / "token"
    secret.write_text("secret-of-the-deployment")
    path = place.format(logs=one_world.settings.logs_dir)
    job_id = with_log(one_world, b"", path=path)
    (one_world.settings.logs_dir / "link.log").symlink_to(secret)
    body = problem(one_world.client.get(f"/v1/jobs/{job_id}/logs"), "log_missing")
    assert "secret-of-the-deployment" not in str(body)


def test_a_log_that_was_removed(one_world: World) -> None:
    job_id = with_log(one_world, TEXT)
    next(one_world.settings.logs_dir.iterdir()).unlink()
    problem(one_world.client.get(f"/v1/jobs/{job_id}/logs"), "log_missing", "was removed")
    problem(one_world.client.get("/v1/jobs/x/logs"), "not_found")
    problem(one_world.client.get(f"/v1/jobs/{job_id}/logs?limit=0"), "validation", "limit")
