"""The runner ray_jobs against a fake Jobs API: every answer that a cluster can give, and none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from superbatch_server.schemas.jobs import JobState
from superbatch_server.service.runners import Assignment, open_runner
from superbatch_server.service.runners.ray_api import RayAway, RayJobsApi, RayRefused
from superbatch_server.service.runners.ray_jobs import Entrypoint, RayJobsRunner
from superbatch_server.service.runners.ray_run import RayRun
from superbatch_server.service.settings import Settings, read_settings
from superbatch_server.service.supervisor import Supervisor
from superbatch_server.storage.store import open_store
from tests.service.catalog.builders import event_kinds, job, submit
from tests.service.runners.fake_ray import TOKEN, FakeRay, fake_ray
from tests.service.running import wait_until

NAME = "job_a-3"


@pytest.fixture
def ray() -> Iterator[FakeRay]:
    with fake_ray() as fake:
        yield fake


@pytest.fixture
def api(ray: FakeRay) -> Iterator[RayJobsApi]:
    client = RayJobsApi(ray.address, token=TOKEN, timeout_s=0.3)
    yield client
    client.close()


@pytest.fixture
def begin(api: RayJobsApi, tmp_path: Path) -> Iterator[Callable[..., RayRun]]:
    """Start runs that look every 10 ms, and end their threads afterwards."""
    runs: list[RayRun] = []

    def make(*, patience_s: float = 30.0) -> RayRun:
        runs.append(
            RayRun(api, NAME, body=body(), log_path=tmp_path / "logs" / "a.log", patience_s=patience_s, poll_s=0.01)
        )
        return runs[-1]

    yield make
    for run in runs:
        run.destroy()


def assignment(tmp_path: Path, *, token: int = 3) -> Assignment:
    return Assignment("job_a", token, "s3cret", service_url="http://api:8600", log_path=tmp_path / "a.log")


def entrypoint() -> Entrypoint:
    return Entrypoint(("python", "-m", "the driver"), num_cpus=1.0, num_gpus=0.0, scratch_dir="/scratch")


def body() -> dict[str, object]:
    return entrypoint().body(assignment(Path("/nowhere")))


def runner(api: RayJobsApi, *, grace_s: float = 0.0) -> RayJobsRunner:
    return RayJobsRunner(api, entrypoint(), patience_s=30.0, grace_s=grace_s)


def test_the_secret_is_in_the_environment_and_not_in_the_command_line(tmp_path: Path) -> None:
    asked = assignment(tmp_path)
    found = entrypoint().body(asked)
    assert found["entrypoint"] == "python -m 'the driver'"
    assert found["submission_id"] == NAME
    assert found["runtime_env"] == {
        "env_vars": {
            "SUPERBATCH_SERVICE_URL": "http://api:8600",
            "SUPERBATCH_JOB": "job_a",
            "SUPERBATCH_TOKEN": "3",
            "SUPERBATCH_ATTEMPT_SECRET": "s3cret",
            "SUPERBATCH_IN_CLUSTER": "1",
            "SUPERBATCH_SCRATCH_DIR": "/scratch",
            "SUPERBATCH_DRIVER_CPUS": "1.0",
        }
    }
    assert (found["entrypoint_num_cpus"], found["entrypoint_num_gpus"]) == (1.0, 0.0)
    assert "s3cret" not in repr(asked)


def test_a_submission_that_succeeds_is_forgotten_and_its_log_is_kept(
    ray: FakeRay, begin: Callable[..., RayRun], tmp_path: Path
) -> None:
    run = begin()
    wait_until(lambda: NAME in ray.jobs, "it is submitted")
    assert (run.outcome(), run.pid) == (None, None)
    ray.logs[NAME] = "first\n"
    log = tmp_path / "logs" / "a.log"
    wait_until(lambda: log.exists(), "its log is copied while it runs")
    ray.logs[NAME] = "first\nsecond ü\n"
    ray.set(NAME, "SUCCEEDED")
    assert wait_until(run.outcome, "its end") == "exited with 0"
    assert log.read_text() == "first\nsecond ü\n"
    run.destroy()
    assert ray.jobs == {}
    assert run.outcome() == "exited with 0"


@pytest.mark.parametrize(
    ("status", "fields", "said"),
    [
        ("FAILED", {"driver_exit_code": 70}, "exited with 70"),
        ("FAILED", {"message": "Job supervisor actor died"}, "lost by the cluster: Job supervisor actor died"),
        ("FAILED", {}, "lost by the cluster: no reason given"),
        ("STOPPED", {}, "stopped on the cluster"),
    ],
)
def test_every_end_is_said(
    ray: FakeRay, begin: Callable[..., RayRun], status: str, fields: dict[str, object], said: str
) -> None:
    run = begin()
    wait_until(lambda: NAME in ray.jobs, "it is submitted")
    ray.set(NAME, status, **fields)
    assert wait_until(run.outcome, "its end") == said


@pytest.mark.parametrize("fault", [429, 500, 503, 0], ids=["429", "500", "503", "no answer"])
def test_a_submission_is_repeated_until_the_cluster_has_it_once(
    ray: FakeRay, begin: Callable[..., RayRun], fault: int
) -> None:
    ray.faults["POST jobs"] = [fault, fault]
    begin()
    wait_until(lambda: NAME in ray.jobs, "it is submitted")
    assert ray.asked.count("POST /api/jobs/") == 3


def test_a_submission_whose_answer_was_lost_is_not_made_twice(ray: FakeRay, begin: Callable[..., RayRun]) -> None:
    ray.loses_answers = True
    run = begin()
    wait_until(lambda: NAME in ray.jobs, "it arrived")
    ray.set(NAME, "SUCCEEDED")
    assert wait_until(run.outcome, "it is watched") == "exited with 0"
    assert ray.asked.count("POST /api/jobs/") == 1


@pytest.mark.parametrize("fault", [400, 401, 403])
def test_a_refused_submission_says_why(ray: FakeRay, begin: Callable[..., RayRun], fault: int) -> None:
    ray.faults["POST jobs"] = [fault]
    said = wait_until(begin().outcome, "its end")
    assert said == f"refused by the cluster: POST /api/jobs/: {fault} told to fail"


def test_a_cluster_that_never_answers_loses_the_run(ray: FakeRay, begin: Callable[..., RayRun]) -> None:
    ray.faults["POST jobs"] = [503] * 1000
    said = wait_until(begin(patience_s=0.2).outcome, "its end")
    assert said.startswith("runner lost: POST /api/jobs/: 503")


@pytest.mark.parametrize("faults", [[500] * 1000, [401] * 1000, [0] * 1000], ids=["500", "401", "no answer"])
def test_a_cluster_that_falls_silent_loses_the_run_after_the_patience(
    ray: FakeRay, begin: Callable[..., RayRun], faults: list[int]
) -> None:
    run = begin(patience_s=0.5)
    wait_until(lambda: NAME in ray.jobs, "it is submitted")
    ray.faults["GET jobs"] = faults
    assert wait_until(run.outcome, "its end").startswith("runner lost: no answer for 0.5 s")
    assert NAME in ray.jobs, "nobody could be told; the next sweep finds it"


def test_a_cluster_that_hiccups_loses_nothing(ray: FakeRay, begin: Callable[..., RayRun]) -> None:
    run = begin()
    wait_until(lambda: NAME in ray.jobs, "it is submitted")
    ray.faults["GET jobs"] = [500, 429, 0, 500]
    wait_until(lambda: not ray.faults["GET jobs"], "the faults are over")
    ray.set(NAME, "SUCCEEDED")
    assert wait_until(run.outcome, "its end") == "exited with 0"


def test_a_head_that_started_anew_has_lost_the_run_at_once(ray: FakeRay, begin: Callable[..., RayRun]) -> None:
    run = begin()
    wait_until(lambda: NAME in ray.jobs, "it is submitted")
    ray.jobs.clear()
    assert wait_until(run.outcome, "its end") == "runner lost: the cluster does not know it any more"


def test_a_run_is_asked_to_stop_until_it_stops(ray: FakeRay, begin: Callable[..., RayRun]) -> None:
    run = begin()
    wait_until(lambda: NAME in ray.jobs, "it is submitted")
    ray.set(NAME, "RUNNING")
    ray.faults["POST jobs/stop"] = [500]
    run.terminate()
    assert wait_until(run.outcome, "its end") == "stopped on the cluster"
    assert ray.asked.count(f"POST /api/jobs/{NAME}/stop") >= 2
    run.destroy()
    assert ray.jobs == {}


def test_a_run_that_was_never_submitted_is_stopped_without_a_request(
    ray: FakeRay, begin: Callable[..., RayRun]
) -> None:
    ray.faults["POST jobs"] = [503] * 1000
    run = begin()
    run.terminate()
    assert wait_until(run.outcome, "its end") == "stopped before it began"
    assert f"POST /api/jobs/{NAME}/stop" not in ray.asked


def test_a_log_that_cannot_be_had_costs_nothing_but_the_log(
    ray: FakeRay, begin: Callable[..., RayRun], tmp_path: Path
) -> None:
    run = begin()
    wait_until(lambda: NAME in ray.jobs, "it is submitted")
    ray.faults["GET jobs/logs"] = [500] * 1000
    ray.set(NAME, "SUCCEEDED")
    assert wait_until(run.outcome, "its end") == "exited with 0"
    assert not (tmp_path / "logs" / "a.log").exists()


@pytest.mark.parametrize(
    ("answer", "error"),
    [([], RayAway), ({"status": 5}, RayAway), ("no json", RayAway), ({}, RayAway)],
)
def test_an_answer_that_makes_no_sense_is_no_answer(
    ray: FakeRay, api: RayJobsApi, monkeypatch: pytest.MonkeyPatch, answer: object, error: type[Exception]
) -> None:
    monkeypatch.setattr(ray, "answer", lambda *_: (200, answer))
    with pytest.raises(error):
        api.find(NAME)
    with pytest.raises(error):
        api.logs(NAME)
    if answer != []:
        with pytest.raises(error):
            api.list()


def test_readiness_follows_the_cluster_and_its_token(ray: FakeRay, api: RayJobsApi) -> None:
    assert runner(api).is_ready()
    ray.faults["GET version"] = [503]
    assert not runner(api).is_ready()
    wrong = RayJobsApi(ray.address, token="wrong")
    assert not runner(wrong).is_ready()
    with pytest.raises(RayRefused, match="401"):
        wrong.version()
    wrong.close()
    nobody = RayJobsApi("http://127.0.0.1:9", token=None)
    assert not runner(nobody).is_ready()
    nobody.close()


def test_readiness_is_not_asked_for_at_every_round(ray: FakeRay, api: RayJobsApi) -> None:
    one = runner(api)
    assert one.is_ready()
    ray.faults["GET version"] = [503]
    assert one.is_ready()


def leave_behind(ray: FakeRay, token: int, status: str) -> str:
    """Let the cluster know a submission of an earlier supervisor."""
    name = f"job_a-{token}"
    metadata = {"superbatch_job": "job_a", "superbatch_token": str(token)}
    ray.jobs[name] = {"submission_id": name, "status": status, "metadata": metadata}
    return name


def test_the_sweep_ends_lost_submissions_and_no_others(ray: FakeRay, api: RayJobsApi) -> None:
    lost, ended, held = (
        leave_behind(ray, 1, "RUNNING"),
        leave_behind(ray, 2, "FAILED"),
        leave_behind(ray, 3, "RUNNING"),
    )
    ray.jobs["somebody's"] = {"submission_id": "somebody's", "status": "RUNNING", "metadata": None}
    forged = {"superbatch_job": "job_a", "superbatch_token": "1"}
    ray.jobs["named otherwise"] = {"submission_id": "named otherwise", "status": "RUNNING", "metadata": forged}
    sweeping = runner(api)
    sweeping.sweep(lambda job_id, token: (job_id, token) in (("job_a", 1), ("job_a", 2)))
    assert ended not in ray.jobs
    assert ray.jobs[lost]["status"] == "STOPPED"
    sweeping.sweep(lambda job_id, token: token == 1)
    assert set(ray.jobs) == {held, "somebody's", "named otherwise"}
    assert {found["status"] for found in ray.jobs.values()} == {"RUNNING"}


def test_the_sweep_gives_a_leftover_its_grace(ray: FakeRay, api: RayJobsApi) -> None:
    name = leave_behind(ray, 1, "RUNNING")
    runner(api, grace_s=60.0).sweep(lambda *_: True)
    assert ray.jobs[name]["status"] == "RUNNING"


def test_the_sweep_leaves_its_own_runs_alone_and_survives_a_cluster_that_is_away(
    ray: FakeRay, api: RayJobsApi, tmp_path: Path
) -> None:
    one = runner(api)
    run = one.start(assignment(tmp_path))
    wait_until(lambda: NAME in ray.jobs, "it is submitted")
    one.sweep(lambda *_: True)
    assert ray.jobs[NAME]["status"] == "PENDING"
    ray.faults["GET jobs"] = [503]
    one.sweep(lambda *_: True)
    run.destroy()
    assert ray.jobs == {}


@pytest.fixture
def clustered(ray: FakeRay, engine: Engine, tmp_path: Path) -> Settings:
    """Return the settings of a supervisor on the fake cluster."""
    secret = tmp_path / "ray-token"
    secret.write_text(TOKEN + "\n")
    return read_settings(
        {},
        data_dir=tmp_path,
        runner="ray_jobs",
        ray_address=ray.address,
        ray_token_file=secret,
        ray_patience_s=0.3,
        stop_grace_s=0.1,
        max_crashes=1,
        api_url="http://api:8600",
    )


def test_a_supervisor_claims_nothing_while_the_cluster_is_away(
    ray: FakeRay, engine: Engine, clustered: Settings
) -> None:
    supervisor = Supervisor(engine=engine, settings=clustered, store=open_store(clustered.store_url))
    job_id = submit(engine)
    ray.faults["GET version"] = [503]
    supervisor.look()
    assert (job(engine, job_id)["state"], job(engine, job_id)["token"]) == (JobState.QUEUED, 0)


def test_a_lost_run_crashes_once_and_the_job_goes_on(ray: FakeRay, engine: Engine, clustered: Settings) -> None:
    supervisor = Supervisor(engine=engine, settings=clustered, store=open_store(clustered.store_url))
    job_id = submit(engine)
    supervisor.look()
    wait_until(lambda: f"{job_id}-1" in ray.jobs, "the first submission")
    environment = ray.jobs[f"{job_id}-1"]["body"]["runtime_env"]["env_vars"]
    assert environment["SUPERBATCH_SERVICE_URL"] == "http://api:8600"
    ray.jobs.clear()

    def goes_on() -> bool:
        supervisor.look()
        return f"{job_id}-2" in ray.jobs

    wait_until(goes_on, "the second submission")
    assert event_kinds(engine, job_id) == ["submitted", "attempt_began", "attempt_crashed", "attempt_began"]
    supervisor.stop_drivers()
    assert ray.jobs == {}
    assert (job(engine, job_id)["state"], job(engine, job_id)["crashes"]) == (JobState.QUEUED, 1)


def test_a_new_supervisor_ends_what_a_dead_one_left_of_lost_attempts_only(
    ray: FakeRay, engine: Engine, clustered: Settings
) -> None:
    dead = Supervisor(engine=engine, settings=clustered, store=open_store(clustered.store_url))
    job_id = submit(engine)
    dead.look()
    wait_until(lambda: f"{job_id}-1" in ray.jobs, "the first submission")
    metadata = {"superbatch_job": job_id, "superbatch_token": "0"}
    ray.jobs[f"{job_id}-0"] = {"submission_id": f"{job_id}-0", "status": "RUNNING", "metadata": metadata}
    elsewhere = {"superbatch_job": "job_of_others", "superbatch_token": "1"}
    ray.jobs["job_of_others-1"] = {"submission_id": "job_of_others-1", "status": "RUNNING", "metadata": elsewhere}
    settings = clustered.model_copy(update={"stop_grace_s": 0.01})
    anew = Supervisor(engine=engine, settings=settings, store=open_store(settings.store_url))

    def swept() -> bool:
        anew.look()
        return f"{job_id}-0" not in ray.jobs

    wait_until(swept, "the lost attempt's submission is gone")
    assert {ray.jobs[name]["status"] for name in (f"{job_id}-1", "job_of_others-1")} <= {"PENDING", "RUNNING"}
    dead.stop_drivers()


def test_the_settings_name_the_runner(tmp_path: Path, ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_runner(read_settings({}, data_dir=tmp_path)).name == "local"
    chosen = {"runner": "ray_jobs", "data_dir": tmp_path}
    with pytest.raises(ValueError, match="ray_jobs needs the address"):
        read_settings({}, **chosen)
    with pytest.raises(ValueError, match="must be like http://ray-head:8265"):
        read_settings({}, **chosen, ray_address="ray-head:10001")
    settings = read_settings({}, **chosen, ray_address=ray.address, ray_token="t0ken")
    assert "t0ken" not in repr(settings)
    assert settings.environment()["SUPERBATCH_RAY_TOKEN"] == "t0ken"
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert read_settings() == settings
    assert open_runner(settings).name == "ray_jobs"
    missing = settings.model_copy(update={"ray_token_file": tmp_path / "none"})
    with pytest.raises(ValueError, match="SUPERBATCH_RAY_TOKEN_FILE"):
        open_runner(missing)
