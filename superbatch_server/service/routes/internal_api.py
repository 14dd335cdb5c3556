"""The internal API: what a driver may do, fenced by (job, token) and the attempt's own secret.

    GET  ''                             -> AttemptBundle
    POST heartbeat        Heartbeat     -> HeartbeatAnswer
    POST events           EventReport   -> 204
    GET  refresh                        -> RefreshState
    GET  exclusions/{digest}            -> ExclusionSet
    POST checkpoints/{id}:verdict  CheckpointVerdict -> Checkpoint
    PUT  numerics         Numerics      -> Numerics
    PUT  pool             PoolReport    -> 204
    POST cache:lookup     CacheLookup   -> CacheFound
    POST cache            CacheEntry    -> CacheEntry, the one that won
    POST schedule         ScheduleRow   -> ScheduleRow, the one recorded first
    POST segments         SegmentCommit -> SegmentCommitted
    POST release          Release       -> 204
    POST finish           Finish        -> Finished

The bearer is the attempt's secret, never the user's token. The app's state carries `engine` and `settings`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from sqlalchemy import Engine

from superbatch_server.schemas.attempts import (
    AttemptBundle,
    CacheEntry,
    CacheFound,
    CacheLookup,
    CheckpointVerdict,
    EventReport,
    ExclusionSet,
    Finish,
    Finished,
    Heartbeat,
    HeartbeatAnswer,
    Numerics,
    PoolReport,
    RefreshState,
    Release,
    ScheduleRow,
    SegmentCommit,
    SegmentCommitted,
)
from superbatch_server.schemas.errors import Unauthorized
from superbatch_server.schemas.trainers import Checkpoint, CheckpointState
from superbatch_server.service.catalog import attempts, checkpoints, events, exclusions, lease, segments
from superbatch_server.service.catalog.engine import read, transact, write
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.settings import Settings

router = APIRouter(prefix="/internal/v1/jobs/{job_id}/attempts/{token}", include_in_schema=False)


def attempt_of(request: Request, job_id: str, token: int) -> Attempt:
    """Return who the caller says it is; the fence proves it."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise Unauthorized(
            f"the internal API takes an attempt's secret as bearer; got none (job {job_id}, attempt {token}). "
            "Only a driver that the supervisor started has one."
        )
    return Attempt(job_id, token, secret)


def is_attempt(request: Request) -> bool:
    """Claim that the bearer is the secret of some job's newest attempt; which one it is, the fence looks at."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    with read(engine_of(request)) as connection:
        return lease.is_known_secret(connection, secret)


def engine_of(request: Request) -> Engine:
    """Return the catalog's engine."""
    engine: Engine = request.app.state.engine
    return engine


def settings_of(request: Request) -> Settings:
    """Return the deployment's settings."""
    settings: Settings = request.app.state.settings
    return settings


Who = Annotated[Attempt, Depends(attempt_of)]
Catalog = Annotated[Engine, Depends(engine_of)]
Deployment = Annotated[Settings, Depends(settings_of)]


@router.get("")
def get_attempt(who: Who, engine: Catalog, settings: Deployment) -> AttemptBundle:
    """Return everything that a driver starts from."""
    with read(engine) as connection:
        return attempts.bundle(connection, who, runtime=settings.runtime())


@router.post("/heartbeat")
def post_heartbeat(who: Who, engine: Catalog, settings: Deployment, body: Heartbeat) -> HeartbeatAnswer:
    """Renew the lease."""
    with write(engine) as connection:
        return lease.heartbeat(connection, who, body, lease_ms=settings.lease_ms)


@router.post("/events", status_code=204)
def post_event(who: Who, engine: Catalog, body: EventReport) -> None:
    """Add a line to the job's history."""
    with write(engine) as connection:
        lease.fence(connection, who)
        events.add_event(connection, who.job_id, body.kind, body.message, body.fields)


@router.get("/refresh")
def get_refresh(who: Who, engine: Catalog) -> RefreshState:
    """Return credit and checkpoints; an unverified checkpoint counts as being verified from now on."""
    with read(engine) as connection:
        lease.fence(connection, who, lock=False)
        state = checkpoints.refresh_state(connection, who.job_id)
    if state.unverified is not None and state.unverified.state is CheckpointState.RECEIVED:
        with write(engine) as connection:
            lease.fence(connection, who)
            checkpoints.begin_verifying(connection, who.job_id, state.unverified.id)
    return state


@router.get("/exclusions/{digest}")
def get_exclusions(who: Who, engine: Catalog, digest: str) -> ExclusionSet:
    """Return the rows that a schedule row leaves out, by the digest that it names."""
    with read(engine) as connection:
        lease.fence(connection, who, lock=False)
        return exclusions.exclusion_set(connection, digest)


@router.post("/checkpoints/{checkpoint_id}:verdict")
def post_verdict(who: Who, engine: Catalog, checkpoint_id: str, body: CheckpointVerdict) -> Checkpoint:
    """Say whether a checkpoint embeds the fixed rows."""
    with write(engine) as connection:
        lease.fence(connection, who)
        return checkpoints.give_verdict(connection, who.job_id, checkpoint_id, body)


@router.put("/numerics")
def put_numerics(who: Who, engine: Catalog, body: Numerics) -> Numerics:
    """Record the numerics profile, or agree with it."""
    with write(engine) as connection:
        return attempts.record_numerics(connection, who, body)


@router.put("/pool", status_code=204)
def put_pool(who: Who, engine: Catalog, body: PoolReport) -> None:
    """Record the finished index pass."""
    with write(engine) as connection:
        attempts.report_pool(connection, who, body)


@router.post("/cache:lookup")
def post_cache_lookup(who: Who, engine: Catalog, body: CacheLookup) -> CacheFound:
    """Return the committed shards among the keys, and note that the job needs them."""
    return transact(engine, lambda connection: attempts.find_cached(connection, who, body.cache_keys))


@router.post("/cache")
def post_cache(who: Who, engine: Catalog, body: CacheEntry) -> CacheEntry:
    """Commit a shard; the first commit of a key wins."""
    return transact(engine, lambda connection: attempts.commit_cached(connection, who, body))


@router.post("/schedule")
def post_schedule(who: Who, engine: Catalog, body: ScheduleRow) -> ScheduleRow:
    """Record what decides a batch, before it is scored."""
    with write(engine) as connection:
        return attempts.record_schedule(connection, who, body)


@router.post("/segments")
def post_segment(who: Who, engine: Catalog, body: SegmentCommit) -> SegmentCommitted:
    """Publish the next batches."""
    with write(engine) as connection:
        return segments.commit_segment(connection, who, body)


@router.post("/release", status_code=204)
def post_release(who: Who, engine: Catalog, body: Release) -> None:
    """Give the job back until what it waits for moves."""
    with write(engine) as connection:
        lease.release(connection, who, body)


@router.post("/finish")
def post_finish(who: Who, engine: Catalog, body: Finish) -> Finished:
    """End the job."""
    with write(engine) as connection:
        state = lease.finish(connection, who, body)
        return Finished(state=state, log_files=segments.newest_log_files(connection, who.job_id))
