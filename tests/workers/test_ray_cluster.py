"""What a driver does differently in a cluster that was there before; no cluster is needed to prove it."""

from __future__ import annotations

import json

import pytest

from superbatch_server.schemas.errors import NumericsChanged, ResourcesTooSmall
from superbatch_server.workers.driver import ClusterPlace, read_environment
from superbatch_server.workers.ray_cluster import require_alike, wait_for_cpus
from superbatch_server.workers.ray_executor import num_logical_cpus, thread_variables

SUBMITTED = {
    "SUPERBATCH_SERVICE_URL": "http://api:8600",
    "SUPERBATCH_JOB": "job_1",
    "SUPERBATCH_TOKEN": "3",
    "SUPERBATCH_ATTEMPT_SECRET": "s3cret",
    "SUPERBATCH_IN_CLUSTER": "1",
    "SUPERBATCH_SCRATCH_DIR": "/scratch",
    "SUPERBATCH_DRIVER_CPUS": "0.5",
}


def test_a_submitted_driver_hands_no_secret_on_to_workers() -> None:
    config = {"runtime_env": {"env_vars": SUBMITTED}, "metadata": {"job_submission_id": "job_1-3"}}
    environ = {**SUBMITTED, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(config)}
    found = read_environment(environ)
    assert (found.secret, found.cluster) == ("s3cret", ClusterPlace("/scratch", 0.5))
    assert "s3cret" not in "".join(environ.values())
    assert json.loads(environ["RAY_JOB_CONFIG_JSON_ENV_VAR"]) == {"metadata": config["metadata"]}


def test_a_local_driver_takes_its_scratch_folder_from_the_service() -> None:
    environ = {name: value for name, value in SUBMITTED.items() if name != "SUPERBATCH_IN_CLUSTER"}
    assert read_environment(environ).cluster is None
    assert "RAY_JOB_CONFIG_JSON_ENV_VAR" not in environ


def test_all_pools_fit_into_the_cpus_that_are_asked_for() -> None:
    assert num_logical_cpus(4, scores=False) == 5
    assert num_logical_cpus(4, scores=True) == 9
    assert set(thread_variables(3).values()) == {"3"}


def test_machines_that_compute_differently_are_refused_by_name() -> None:
    require_alike({"a": "torch 2.13.0 on cpu AVX2", "b": "torch 2.13.0 on cpu AVX2"}, here="torch 2.13.0 on cpu AVX2")
    with pytest.raises(NumericsChanged, match=r"torch 2.13.0 on cpu AVX512 on 1 of 2 machines \(node b\)"):
        require_alike(
            {"a": "torch 2.13.0 on cpu AVX2", "b": "torch 2.13.0 on cpu AVX512"}, here="torch 2.13.0 on cpu AVX2"
        )


def test_a_driver_waits_for_room_and_says_so_once() -> None:
    free, told, paused = iter([1.0, 3.0, 5.0]), [], []
    wait_for_cpus(5, own=1.0, tell=told.append, total=lambda: 8.0, free=lambda: next(free), pause=paused.append)
    assert told == ["waits for 5 free CPUs of the Ray cluster; 1 are free"]
    assert len(paused) == 2


def test_a_cluster_that_is_too_small_is_refused_with_the_numbers() -> None:
    for needed, own in ((9, 0.0), (8, 1.0)):
        with pytest.raises(ResourcesTooSmall, match=f"{needed} CPUs, and {own:g} of its driver; got 8"):
            wait_for_cpus(needed, own=own, tell=lambda _: None, total=lambda: 8.0, free=lambda: 7.0)
