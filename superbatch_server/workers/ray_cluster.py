"""Running inside a Ray cluster that was there before: what a driver that was submitted to it does differently."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, MutableMapping
from time import sleep
from typing import Any

from superbatch_server.encoders.numerics import local_profile
from superbatch_server.schemas.errors import NumericsChanged, ResourcesTooSmall
from superbatch_server.workers.ray_executor import RayStopped, thread_variables
from superbatch_server.workers.scratch import Scratch

_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_NODES_LIMIT_S = 120.0  # a worker process imports torch first
_WAIT_S = 2.0

log = logging.getLogger(__name__)


def forget_submitted_environment(environ: MutableMapping[str, str]) -> None:
    """Take the runtime environment of the submission out of what this driver hands on.

    Ray would give it to every worker, the attempt's secret with it.
    """
    config = json.loads(environ.get(_JOB_CONFIG, "{}"))
    config.pop("runtime_env", None)
    environ[_JOB_CONFIG] = json.dumps(config)


def join_cluster(*, threads: int) -> None:
    """Connect this process to the cluster that it runs in."""
    import ray
    import ray.data

    ray.init(
        address="auto",
        logging_level=logging.WARNING,
        log_to_driver=True,
        runtime_env={"env_vars": thread_variables(threads)},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False


def prepare_nodes(scratch: Scratch) -> None:
    """Make the attempt's folder on every machine, and see that all of them compute alike.

    Raises:
        NumericsChanged: a machine has another torch or another kind of processor than this one: the bits of a list
            would depend on where its rows were embedded.
        RayStopped: a machine does not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    task = ray.remote(_prepare)
    asked = [
        task.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(scratch)
        for node in nodes
    ]
    try:
        found: list[str] = ray.get(asked, timeout=_NODES_LIMIT_S)
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise RayStopped(
            f"every machine of the Ray cluster must answer within {_NODES_LIMIT_S:g} s; got "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__} ({len(nodes)} machines). "
            "See `ray status` and whether all run the same image."
        ) from error
    require_alike(dict(zip(nodes, found, strict=True)), here=_kind())


def require_alike(kinds: dict[str, str], *, here: str) -> None:
    """Raise NumericsChanged unless every machine is of the driver's kind."""
    others = {node: kind for node, kind in kinds.items() if kind != here}
    if others:
        node, kind = next(iter(others.items()))
        raise NumericsChanged(
            f"all machines of a job must compute alike; got {kind} on {len(others)} of {len(kinds)} machines (node "
            f"{node}), the driver's has {here}. Run one image on one kind of machine, or a cluster for each kind."
        )


def wait_for_cpus(
    needed: int,
    *,
    own: float,
    tell: Callable[[str], None],
    total: Callable[[], float] | None = None,
    free: Callable[[], float] | None = None,
    pause: Callable[[float], None] = sleep,
) -> None:
    """Return when the cluster has as many free CPUs as the pools need together: with fewer, one waits without a word.

    Args:
        own: CPUs that this driver holds.
    Raises: ResourcesTooSmall when it has not so many at all.
    """
    total, free = total or _count("cluster_resources"), free or _count("available_resources")
    has_told = False
    while (available := free()) < needed:
        if total() - own < needed:
            raise ResourcesTooSmall(
                f"a Ray cluster must hold all workers of a job, {needed} CPUs, and {own:g} of its driver; got "
                f"{total():g}. Lower SUPERBATCH_NUM_WORKERS, or add machines to the cluster."
            )
        if not has_told:
            tell(f"waits for {needed} free CPUs of the Ray cluster; {available:g} are free")
            has_told = True
        pause(_WAIT_S)


def _count(name: str) -> Callable[[], float]:
    import ray

    return lambda: float(getattr(ray, name)().get("CPU", 0.0))


def _prepare(scratch: Scratch) -> str:
    scratch.prepare()
    return _kind()


def _kind() -> str:
    profile: Any = local_profile(threads_per_worker=1, composer_threads=1, micro_batch=1)
    return f"torch {profile.torch_version} on {profile.device}"
