"""The driver of one attempt: `python -m superbatch_server.workers.driver`.

Reads SUPERBATCH_SERVICE_URL, SUPERBATCH_JOB, SUPERBATCH_TOKEN and SUPERBATCH_ATTEMPT_SECRET; where it was submitted to
a Ray cluster also SUPERBATCH_IN_CLUSTER, SUPERBATCH_SCRATCH_DIR and SUPERBATCH_DRIVER_CPUS; and nothing else. Logs one
line per step to stderr. Ends with one of `Exit`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import FrameType

from superbatch.formats.errors import ServiceError, ServiceUnreachable, SuperbatchError
from superbatch_server.schemas.attempts import AttemptBundle, EventReport, Finish, Release
from superbatch_server.schemas.errors import InsufficientStorage, LeaseLost, Unavailable
from superbatch_server.storage.disk import is_full
from superbatch_server.storage.store import open_store
from superbatch_server.workers.attempt import Needs, find_needs, run_attempt, settle_numerics
from superbatch_server.workers.client import AttemptClient
from superbatch_server.workers.executors import Executor, InProcessExecutor
from superbatch_server.workers.index_pass import ShardFailed
from superbatch_server.workers.lease import EXIT_LEASE_LOST, LeaseThread, die, kill_descendants
from superbatch_server.workers.lists import put_files
from superbatch_server.workers.progress import Progress
from superbatch_server.workers.ray_cluster import (
    forget_submitted_environment,
    join_cluster,
    prepare_nodes,
    wait_for_cpus,
)
from superbatch_server.workers.ray_executor import RayExecutor, RayStopped, num_logical_cpus, start_ray
from superbatch_server.workers.resources import check_resources, this_machine
from superbatch_server.workers.row_scorer import ScoringFailed
from superbatch_server.workers.scratch import Scratch

_MESSAGE_LENGTH = 4000

log = logging.getLogger("superbatch.driver")


class Exit(IntEnum):
    """How a driver ends; the supervisor logs it."""

    DONE = 0
    """All is published, or the job was released because nothing moved."""
    FAILED = 1
    """The job is FAILED, with code and message."""
    CRASHED = 70
    """Something that another attempt may survive; the traceback is in the log."""
    LEASE_LOST = EXIT_LEASE_LOST
    """Another attempt holds the job, or may."""
    STOPPED = 143
    """Asked to stop: SIGTERM, or the job was cancelled."""


class Stopped(BaseException):
    """Raised in the main thread by SIGTERM. Every step can be cut short anywhere: what counts is committed."""


@dataclass(frozen=True)
class ClusterPlace:
    """Where a driver stands in the Ray cluster that it was submitted to."""

    scratch_dir: str
    """Folder for temporary files on each machine."""
    own_cpus: float
    """CPUs that the driver itself holds."""


@dataclass(frozen=True)
class Environment:
    """Which attempt this process is."""

    service_url: str
    job: str
    token: int
    secret: str = field(repr=False)
    cluster: ClusterPlace | None = None
    """None: it starts a Ray of its own."""


def read_environment(environ: MutableMapping[str, str]) -> Environment:
    """Return the attempt that the supervisor names, and take its secret out of what workers would inherit."""
    names = ("SUPERBATCH_SERVICE_URL", "SUPERBATCH_JOB", "SUPERBATCH_TOKEN", "SUPERBATCH_ATTEMPT_SECRET")
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise SystemExit(
            f"a driver is started by the supervisor with {', '.join(names)}; missing: {', '.join(missing)}"
        )
    in_cluster = environ.get("SUPERBATCH_IN_CLUSTER") == "1"
    if in_cluster:
        forget_submitted_environment(environ)
    return Environment(
        environ[names[0]],
        environ[names[1]],
        int(environ[names[2]]),
        environ.pop(names[3]),
        cluster=_cluster_place(environ) if in_cluster else None,
    )


def _cluster_place(environ: MutableMapping[str, str]) -> ClusterPlace:
    return ClusterPlace(environ["SUPERBATCH_SCRATCH_DIR"], float(environ["SUPERBATCH_DRIVER_CPUS"]))


def drive(client: AttemptClient, *, cluster: ClusterPlace | None = None) -> Exit:
    """Run one attempt under its lease, and say how the job ended."""
    signal.signal(signal.SIGTERM, _stop)
    bundle = client.bundle()
    if cluster is not None:
        runtime = bundle.runtime.model_copy(update={"scratch_dir": cluster.scratch_dir})
        bundle = bundle.model_copy(update={"runtime": runtime})
    client.patience_s = bundle.runtime.lease_s
    progress = Progress()
    scratch = Scratch(bundle.runtime.scratch_dir, job=bundle.job_id, token=bundle.token)
    scratch.prepare()
    lease = LeaseThread(
        client,
        beat=progress.heartbeat,
        heartbeat_s=bundle.runtime.heartbeat_s,
        lease_s=bundle.runtime.lease_s,
        on_cancel=lambda: os.kill(os.getpid(), signal.SIGTERM),
        on_lost=lambda reason: die(reason, clean_up=scratch.remove),
    )
    lease.start()
    try:
        return _work(bundle, client, lease, progress, scratch, cluster=cluster)
    except (LeaseLost, ServiceUnreachable) as error:
        die(str(error), clean_up=scratch.remove)
    except SuperbatchError as error:
        lease.stop()
        return _failed(client, error)
    finally:
        lease.stop()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # Nothing that Ray holds is worth an orderly end, and its shutdown brings back the default action of SIGTERM.
        kill_descendants()
        scratch.remove()


def _work(
    bundle: AttemptBundle,
    client: AttemptClient,
    lease: LeaseThread,
    progress: Progress,
    scratch: Scratch,
    *,
    cluster: ClusterPlace | None,
) -> Exit:
    log.info(
        "job %s, attempt %d, from seq %d of %d", bundle.job_id, bundle.token, bundle.next_seq, bundle.spec.num_batches
    )
    store = open_store(bundle.runtime.store_url)
    profile = settle_numerics(bundle, client)
    needs = find_needs(bundle, client, profile, folder=scratch.folder)
    log.info("%d shards are cached, %d must be read", len(needs.plan.ready), len(needs.plan.tasks))
    if needs.plan.tasks or bundle.next_seq == 0:
        client.event(_pass_planned(needs))
    progress.enter(needs.pass_phase)
    if cluster is None:
        executor = _local_executor(bundle, client, needs, scratch)
    else:
        executor = _cluster_executor(bundle, client, needs, scratch, own_cpus=cluster.own_cpus)
    signal.signal(signal.SIGTERM, _stop)  # Ray sets its own handler
    release = run_attempt(bundle, client, store, executor, needs=needs, progress=progress)
    lease.stop()
    with suppress(ServiceUnreachable):
        client.heartbeat(progress.heartbeat(), timeout_s=bundle.runtime.lease_s / 3)  # the last counters
    if release is not None:
        log.info("released until the %s moves", release.waits_for)
        client.release(release)
    else:
        log.info("all batches are published")
        put_files(store, client.finish(Finish(outcome="SUCCEEDED")).log_files)
    return Exit.DONE


def _pass_planned(needs: Needs) -> EventReport:
    """Return the event from which the dashboard knows which embeddings of the cache are this job's."""
    num_cached, num_tasks = len(needs.plan.ready), len(needs.plan.tasks)
    return EventReport(
        kind="pass_planned",
        message=f"{num_cached} of {num_cached + num_tasks} shards are cached, {num_tasks} must be read",
        fields={
            "cached": num_cached,
            "to_read": num_tasks,
            "encoder": needs.embed.encoder_digest if needs.embed else None,
            "numerics": needs.embed.numerics_digest if needs.embed else None,
        },
    )


def _local_executor(bundle: AttemptBundle, client: AttemptClient, needs: Needs, scratch: Scratch) -> Executor:
    """Return a Ray of this machine where something must be embedded or scored, else threads of this process."""
    runtime = bundle.runtime
    _warn(client, check_resources(runtime, this_machine(), num_pools=needs.num_pools))
    if needs.num_pools == 0:
        return _threads(bundle, needs)
    log.info("starting Ray: %d pools of %d workers", needs.num_pools, runtime.num_workers)
    num_cpus = num_logical_cpus(runtime.num_workers, scores=needs.scores)
    start_ray(
        num_cpus=num_cpus,
        temp_dir=scratch.ray_folder,
        token_file=scratch.folder / "ray_token",
        threads=needs.settings.threads,
    )
    return _ray_executor(bundle, needs, temp_dir=scratch.ray_folder)


def _cluster_executor(
    bundle: AttemptBundle, client: AttemptClient, needs: Needs, scratch: Scratch, *, own_cpus: float
) -> Executor:
    """Return the Ray cluster that this driver runs in, once it has room, else threads of this process."""
    if needs.num_pools == 0:
        return _threads(bundle, needs)
    log.info("joining the Ray cluster: %d pools of %d workers", needs.num_pools, bundle.runtime.num_workers)
    join_cluster(threads=needs.settings.threads)
    prepare_nodes(scratch)
    num_cpus = num_logical_cpus(bundle.runtime.num_workers, scores=needs.scores)
    wait_for_cpus(num_cpus, own=own_cpus, tell=lambda message: _warn(client, message))
    return _ray_executor(bundle, needs, temp_dir=None)


def _threads(bundle: AttemptBundle, needs: Needs) -> Executor:
    workers = bundle.runtime.num_workers
    return InProcessExecutor(needs.settings, embed=needs.embed, spec=needs.spec, num_workers=workers)


def _ray_executor(bundle: AttemptBundle, needs: Needs, *, temp_dir: Path | None) -> Executor:
    return RayExecutor(
        needs.settings,
        embed=needs.embed,
        spec=needs.spec,
        num_workers=bundle.runtime.num_workers,
        shards_per_task=bundle.runtime.shards_per_task,
        scores=needs.scores,
        temp_dir=temp_dir,
    )


def _warn(client: AttemptClient, warning: str | None) -> None:
    if warning:
        log.warning(warning)
        client.event(EventReport(kind="resources", message=warning))


def _failed(client: AttemptClient, error: SuperbatchError) -> Exit:
    """Report a failure that another attempt would meet again; leave any other to the supervisor's next attempt."""
    code = error.error_code if isinstance(error, (ShardFailed, ScoringFailed)) else error.code
    code = error.problem_code if isinstance(error, ServiceError) else code
    if code in (Unavailable.code, RayStopped.code):
        traceback.print_exc()
        return Exit.CRASHED
    if code == InsufficientStorage.code:
        return _wait_for_room(client, str(error))
    log.error("%s: %s", code, error)
    message = str(error)[:_MESSAGE_LENGTH]
    put = client.finish(Finish(outcome="FAILED", code=code, message=message))
    log.info("the job is %s", put.state)
    return Exit.FAILED


def _wait_for_room(client: AttemptClient, reason: str) -> Exit:
    """Give the job back until a full disk may have room again: nothing is lost, and it is nobody's failure."""
    log.warning("released until there is room: %s", reason)
    client.release(Release(waits_for="room", seen_trained_seq=0, seen_checkpoint=None, reason=reason[:_MESSAGE_LENGTH]))
    return Exit.DONE


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise Stopped


def main() -> int:
    """Run the attempt that the environment names."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    environment = read_environment(os.environ)
    log.info("attempt %s of job %s, process %s", environment.token, environment.job, os.getpid())
    client = AttemptClient(
        environment.service_url, job=environment.job, token=environment.token, secret=environment.secret
    )
    try:
        return drive(client, cluster=environment.cluster)
    except (Stopped, SystemExit):  # SystemExit: of the handler that Ray has while it starts
        log.info("stopped")
        return Exit.STOPPED
    except LeaseLost as error:
        die(str(error))
    except Exception as error:
        if is_full(error):
            return _wait_for_room(client, f"a disk of the attempt must have room; got {error}. Make room on it.")
        log.exception("the attempt crashed")
        return Exit.CRASHED


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # background threads may still wait for what nobody needs any more
