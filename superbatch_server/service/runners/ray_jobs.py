"""Drivers as submissions to a Ray cluster.

The submission's id is <job>-<token>. The cluster refuses an id that it knows, so a request whose answer was lost can be
repeated: no attempt ever has two drivers. The attempt's secret travels in the runtime environment, never in the
command line, and is forgotten with the submission. What a cluster that went away still runs is fenced off by its lease.

A driver does not end with its supervisor here: it holds its own lease, hears of a cancellation by its heartbeats, and
its job is taken over when it dies. A supervisor therefore ends only submissions of attempts that are lost.
"""

from __future__ import annotations

import logging
import shlex
import time
from dataclasses import dataclass

from superbatch_server.service.runners.protocol import Assignment, IsLost
from superbatch_server.service.runners.ray_api import RayAway, RayJobsApi, RayRefused, Submission
from superbatch_server.service.runners.ray_run import RayRun
from superbatch_server.service.settings import Settings, secret_of

log = logging.getLogger("superbatch.supervisor")

_READY_S = 2.0  # between two looks at whether the cluster answers
_COMPLAIN_S = 60.0
_JOB, _TOKEN = "superbatch_job", "superbatch_token"


@dataclass(frozen=True)
class Entrypoint:
    """What is submitted: the command, what of the cluster it takes, its folder for temporary files."""

    command: tuple[str, ...]
    num_cpus: float
    num_gpus: float
    scratch_dir: str

    def body(self, assignment: Assignment) -> dict[str, object]:
        """Return the request that submits an assignment."""
        variables = {
            **assignment.variables(),
            "SUPERBATCH_IN_CLUSTER": "1",
            "SUPERBATCH_SCRATCH_DIR": self.scratch_dir,
            "SUPERBATCH_DRIVER_CPUS": str(self.num_cpus),
        }
        return {
            "entrypoint": shlex.join(self.command),
            "submission_id": submission_id(assignment.job_id, assignment.token),
            "runtime_env": {"env_vars": variables},
            "metadata": {_JOB: assignment.job_id, _TOKEN: str(assignment.token)},
            "entrypoint_num_cpus": self.num_cpus,
            "entrypoint_num_gpus": self.num_gpus,
        }


class RayJobsRunner:
    """Submits drivers to one cluster."""

    name = "ray_jobs"

    def __init__(self, api: RayJobsApi, entrypoint: Entrypoint, *, patience_s: float, grace_s: float) -> None:
        """`patience_s`: silence of the cluster after which a driver is lost; `grace_s`: what a leftover is given."""
        self._api, self._entrypoint = api, entrypoint
        self._patience_s, self._grace_s = patience_s, grace_s
        self._mine: dict[str, RayRun] = {}
        self._leftovers: dict[str, float] = {}
        self._ready, self._ready_until, self._complain_at = False, 0.0, 0.0

    def is_ready(self) -> bool:
        """Claim that the cluster answers and takes the token; asked every two seconds."""
        now = time.monotonic()
        if now >= self._ready_until:
            self._ready = self._answers()
            self._ready_until = time.monotonic() + _READY_S
        return self._ready

    def start(self, assignment: Assignment) -> RayRun:
        """Submit an assignment from a thread of its own."""
        name = submission_id(assignment.job_id, assignment.token)
        self._mine = {known: run for known, run in self._mine.items() if not run.is_destroyed}
        self._mine[name] = run = RayRun(
            self._api,
            name,
            body=self._entrypoint.body(assignment),
            log_path=assignment.log_path,
            patience_s=self._patience_s,
        )
        return run

    def sweep(self, is_lost: IsLost) -> None:
        """Stop, then delete, submissions of lost attempts: of a supervisor that died, of a cluster that was away."""
        try:
            found = {item.submission_id: item for item in self._api.list() if self._is_leftover(item, is_lost)}
        except (RayAway, RayRefused) as error:
            log.info("leftovers on the Ray cluster could not be looked for: %s", error)
            return
        now = time.monotonic()
        self._leftovers = {name: self._leftovers.get(name, now) for name in found if name is not None}
        for name, since in self._leftovers.items():
            if now - since >= self._grace_s:
                self._end(name, found[name])

    def _answers(self) -> bool:
        try:
            self._api.version()
        except (RayAway, RayRefused) as error:
            if time.monotonic() >= self._complain_at:
                self._complain_at = time.monotonic() + _COMPLAIN_S
                log.warning(
                    "the Ray cluster must answer before jobs are claimed; got %s. "
                    "See whether it runs, and compare SUPERBATCH_RAY_ADDRESS and SUPERBATCH_RAY_TOKEN with it",
                    error,
                )
            return False
        self._complain_at = 0.0
        return True

    def _is_leftover(self, item: Submission, is_lost: IsLost) -> bool:
        metadata = item.metadata or {}
        job_id, token = metadata.get(_JOB, ""), metadata.get(_TOKEN, "")
        if not token.isdecimal() or item.submission_id != submission_id(job_id, int(token)):
            return False
        run = self._mine.get(item.submission_id)
        return (run is None or run.is_destroyed) and is_lost(job_id, int(token))

    def _end(self, name: str, item: Submission) -> None:
        try:
            if item.is_terminal:
                self._api.delete(name)
            else:
                log.warning("submission %s outlived its attempt and is stopped", name)
                self._api.stop(name)
        except (RayAway, RayRefused) as error:
            log.info("submission %s could not be ended and is tried again: %s", name, error)


def submission_id(job_id: str, token: int) -> str:
    """Return the id under which an attempt is submitted."""
    return f"{job_id}-{token}"


def open_ray_jobs(settings: Settings) -> RayJobsRunner:
    """Return the runner that the settings describe.

    Raises: ValueError when the file of the token cannot be read.
    """
    assert settings.ray_address is not None, "the settings were checked"
    token = None if settings.ray_token is None else settings.ray_token.get_secret_value()
    if settings.ray_token_file is not None:
        token = secret_of(settings.ray_token_file, setting="ray_token_file")
    entrypoint = Entrypoint(
        settings.ray_entrypoint,
        num_cpus=settings.ray_entrypoint_num_cpus,
        num_gpus=settings.ray_entrypoint_num_gpus,
        scratch_dir=settings.ray_scratch_dir,
    )
    return RayJobsRunner(
        RayJobsApi(settings.ray_address, token=token),
        entrypoint,
        patience_s=settings.ray_patience_s,
        grace_s=settings.stop_grace_s,
    )
