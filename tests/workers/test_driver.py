"""What a driver asks of its machine and its environment before it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from superbatch_server.schemas.attempts import Finish, Runtime
from superbatch_server.schemas.errors import ResourcesTooSmall
from superbatch_server.workers.driver import Exit, read_environment
from superbatch_server.workers.driver import _failed as end_of_failure
from superbatch_server.workers.resources import Machine, check_resources, this_machine
from superbatch_server.workers.row_scorer import Cause, ScoringFailed
from superbatch_server.workers.scratch import Scratch


def runtime(*, num_workers: int, threads_per_worker: int) -> Runtime:
    return Runtime(
        roots={},
        store_url="store",
        scratch_dir="scratch",
        lease_s=30,
        heartbeat_s=10,
        num_workers=num_workers,
        shards_per_task=1,
        threads_per_worker=threads_per_worker,
        composer_threads=1,
        micro_batch=64,
        idle_release_s=60,
    )


def test_threads_above_the_cores_warn_and_above_four_times_are_refused() -> None:
    machine = Machine(cores=2, available_bytes=64 << 30)
    assert check_resources(runtime(num_workers=2, threads_per_worker=1), machine, num_pools=2) is None
    warning = check_resources(runtime(num_workers=4, threads_per_worker=2), machine, num_pools=2)
    assert warning is not None
    assert "8 on 2" in warning
    with pytest.raises(ResourcesTooSmall, match="got 9 on 2"):
        check_resources(runtime(num_workers=9, threads_per_worker=1), machine, num_pools=2)


def test_too_little_memory_is_refused_only_where_ray_is_needed() -> None:
    machine = Machine(cores=8, available_bytes=1 << 30)
    assert check_resources(runtime(num_workers=4, threads_per_worker=1), machine, num_pools=0) is None
    with pytest.raises(ResourcesTooSmall, match="1024 MiB free"):
        check_resources(runtime(num_workers=4, threads_per_worker=1), machine, num_pools=2)
    assert this_machine().cores >= 1
    assert this_machine().available_bytes > 0


def test_the_secret_is_not_left_for_workers_to_inherit() -> None:
    environ = {
        "SUPERBATCH_SERVICE_URL": "http://127.0.0.1:1",
        "SUPERBATCH_JOB": "job_1",
        "SUPERBATCH_TOKEN": "3",
        "SUPERBATCH_ATTEMPT_SECRET": "s3",
    }
    found = read_environment(environ)
    assert (found.token, found.secret) == (3, "s3")
    assert "s3" not in repr(found)
    assert "SUPERBATCH_ATTEMPT_SECRET" not in environ
    with pytest.raises(SystemExit, match="missing: SUPERBATCH_ATTEMPT_SECRET"):
        read_environment(environ)


def test_scratch_of_earlier_attempts_is_removed_and_rays_path_is_short(tmp_path: Path) -> None:
    base = tmp_path / ("long" * 20)
    first, second = (Scratch(str(base), job="job_1", token=token) for token in (1, 2))
    other = Scratch(str(base), job="job_2", token=1)
    for scratch in (first, other):
        scratch.prepare()
        scratch.ray_folder.mkdir(parents=True)
    second.prepare()
    assert not first.folder.exists()
    assert not first.ray_folder.exists()
    assert other.folder.exists()
    assert second.folder.exists()
    assert len(str(second.ray_folder)) <= 40
    for scratch in (second, other):
        scratch.remove()
        assert not scratch.folder.exists()
        assert not scratch.ray_folder.exists()


class Finished:
    """A client that notes how the job was ended."""

    def __init__(self) -> None:
        self.codes: list[str | None] = []

    def finish(self, finish: Finish) -> SimpleNamespace:
        self.codes.append(finish.code)
        return SimpleNamespace(state="FAILED")


@pytest.mark.parametrize(
    ("cause", "error_code", "expected"),
    [("storage", "unavailable", (Exit.CRASHED, [])), ("model", "object_missing", (Exit.FAILED, ["object_missing"]))],
)
def test_only_what_another_attempt_would_meet_again_fails_the_job(
    cause: Cause, error_code: str, expected: tuple[Exit, list[str]]
) -> None:
    client = Finished()
    ended = end_of_failure(client, ScoringFailed(cause, error_code, "away"))  # type: ignore[arg-type]
    assert (ended, client.codes) == expected
