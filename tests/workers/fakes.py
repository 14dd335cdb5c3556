"""The service as a driver sees it, in memory, and attempts run against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from superbatch.formats.bucket import LogSegment
from superbatch.formats.digests import exclusions_digest
from superbatch_server.encoders.numerics import NumericsProfile
from superbatch_server.schemas.attempts import (
    AttemptBundle,
    CacheEntry,
    CheckpointCandidate,
    CheckpointVerdict,
    EventReport,
    ExclusionSet,
    Numerics,
    PoolReport,
    RefreshState,
    Release,
    Runtime,
    ScheduleRow,
    SegmentCommit,
    SegmentCommitted,
    SegmentFile,
    WalkPosition,
)
from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.models import FileRef
from superbatch_server.schemas.trainers import CheckpointState
from superbatch_server.service.catalog.segments import segment_of
from superbatch_server.storage.store import LocalStore
from superbatch_server.workers.attempt import find_needs, run_attempt, settle_numerics
from superbatch_server.workers.executors import Executor, InProcessExecutor
from superbatch_server.workers.progress import Progress

from .world import NUM_SHARDS, ROWS_PER_SHARD, World

ID = "0123456789abcdef"


class Killed(BaseException):
    """The process was killed at a call."""


@dataclass
class FakeService:
    """What the catalog promises to a driver: first row, first cache entry and first commit stay."""

    spec: CurateSpec
    rows: dict[tuple[int, int], ScheduleRow] = field(default_factory=dict)
    cache: dict[str, CacheEntry] = field(default_factory=dict)
    commits: list[SegmentCommit] = field(default_factory=list)
    pool: PoolReport | None = None
    numerics: Numerics | None = None
    events: list[EventReport] = field(default_factory=list)
    released: Release | None = None
    checkpoints: list[CheckpointCandidate] = field(default_factory=list)
    replay: list[ScheduleRow] = field(default_factory=list)
    excluded: dict[str, ExclusionSet] = field(default_factory=dict)
    exclusions_digest: str | None = None
    is_live: bool = True
    scheduled_checkpoints: list[CheckpointCandidate] = field(default_factory=list)
    trainer: Callable[[FakeService], int] = lambda service: 0
    on_call: Callable[[str, object], None] = lambda name, body: None

    @property
    def next_seq(self) -> int:
        return sum(commit.num_batches for commit in self.commits)

    def lookup(self, cache_keys: list[str]) -> list[CacheEntry]:
        return [self.cache[key] for key in cache_keys if key in self.cache]

    def commit_cache(self, entry: CacheEntry) -> CacheEntry:
        self.on_call("cache", entry)
        return self.cache.setdefault(entry.cache_key, entry)

    def report_pool(self, report: PoolReport) -> None:
        assert self.pool in (None, report)
        self.pool = report

    def record_numerics(self, numerics: Numerics) -> Numerics:
        self.numerics = self.numerics or numerics
        return self.numerics

    def record_schedule(self, row: ScheduleRow) -> ScheduleRow:
        self.on_call("schedule", row)
        return self.rows.setdefault((row.seq, row.row_attempt), row)

    def commit_segment(self, commit: SegmentCommit) -> SegmentCommitted:
        self.on_call("commit", commit)
        assert commit.first_seq == self.next_seq
        assert all((commit.first_seq + i, attempt) in self.rows for i, attempt in enumerate(commit.row_attempts))
        self.commits.append(commit)
        self.on_call("committed", commit)
        return SegmentCommitted(next_seq=self.next_seq, log_digest="0" * 64, log_files=[log_file(commit)])

    def refresh(self) -> RefreshState:
        trained_seq = self.trainer(self)
        usable = [c for c in self.checkpoints if c.state in (CheckpointState.RECEIVED, CheckpointState.ACTIVE)]
        active = [c for c in usable if c.state is CheckpointState.ACTIVE]
        new = [c for c in usable if c.state is CheckpointState.RECEIVED]
        return RefreshState(
            consumer_trained_seq=trained_seq,
            consumer_live=self.is_live,
            active=active[-1] if active else None,
            unverified=new[-1] if new else None,
            exclusions_digest=self.exclusions_digest,
        )

    def exclude(self, uids: Iterable[bytes]) -> None:
        """Leave these rows out from the next decision on; a set that replaces the one before."""
        listed = sorted(set(uids))
        self.exclusions_digest = exclusions_digest(listed).hex()
        self.excluded[self.exclusions_digest] = ExclusionSet(digest=self.exclusions_digest, uids=b"".join(listed).hex())

    def exclusions(self, digest: str) -> ExclusionSet:
        return self.excluded[digest]

    def push(self, name: str, file: FileRef, *, trained_seq: int) -> None:
        self.checkpoints.append(
            CheckpointCandidate(
                id=name,
                sha256=file.sha256,
                trained_seq=trained_seq,
                generation=len(self.checkpoints) + 1,
                state=CheckpointState.RECEIVED,
                files=[file],
            )
        )

    def verdict(self, checkpoint_id: str, verdict: CheckpointVerdict) -> None:
        state = CheckpointState.ACTIVE if verdict.ok else CheckpointState.REJECTED
        self.checkpoints = [
            c.model_copy(update={"state": state}) if c.id == checkpoint_id else c for c in self.checkpoints
        ]

    def event(self, report: EventReport) -> None:
        self.events.append(report)

    def newest_rows(self) -> list[ScheduleRow]:
        newest = {seq: row for (seq, _), row in sorted(self.rows.items())}
        return [row for seq, row in newest.items() if seq >= self.next_seq]

    def published_rows(self) -> list[ScheduleRow]:
        attempts = [attempt for commit in self.commits for attempt in commit.row_attempts]
        return [self.rows[seq] for seq in enumerate(attempts)]


def log_file(commit: SegmentCommit) -> SegmentFile:
    """The bucket's file of a segment, as the service writes it, but for the digests of the log."""
    segment = segment_of({"commit": commit.model_dump_json(), "log_digest_end": "0" * 64})  # type: ignore[arg-type]
    log = LogSegment(f"job_{ID}", "hist", "0" * 64, "0" * 64, segment)
    return SegmentFile(key=f"jobs/job_{ID}/hist/{log.name}", text=log.render().decode())


def spec_of(**changes: object) -> CurateSpec:
    """A joint job with a pushed learner, fields replaced: `selection` and `refresh` are merged."""
    fields: dict[str, object] = {
        "dataset": f"dataset_{ID}",
        "reference": f"model_{ID}",
        "learner": {"model": f"model_{ID}", "updates": "none"},
        "draw": {"block_rows": 4},
        "num_batches": 6,
        "seed": 11,
    }
    selection = {"b": 8, "f": 0.6, "N": 4} | dict(changes.pop("selection", {}))  # type: ignore[call-overload]
    return CurateSpec.model_validate(fields | {"selection": selection} | changes)


def bundle_of(
    world: World, service: FakeService, *, token: int = 1, runtime: dict[str, object] | None = None
) -> AttemptBundle:
    spec = service.spec
    return AttemptBundle(
        job_id=f"job_{ID}",
        history_id="hist",
        token=token,
        spec=spec,
        next_seq=service.next_seq,
        next_walk=service.commits[-1].next_walk if service.commits else WalkPosition(),
        dataset_id=f"dataset_{ID}",
        dataset_fingerprint=world.fingerprint(),
        dataset_rows=NUM_SHARDS * ROWS_PER_SHARD,
        manifest=world.manifest(),
        shards=world.shards(),
        reference=world.model("reference") if spec.reference else None,
        learner=world.model("learner") if spec.learner else None,
        numerics=service.numerics.profile if service.numerics else None,
        eligible_digest=service.pool.eligible_digest if service.pool else None,
        schedule=service.newest_rows(),
        replay=[row for row in service.replay if row.seq >= service.next_seq],
        scheduled_checkpoints=service.scheduled_checkpoints,
        log_files=[log_file(commit) for commit in service.commits[-1:]],
        runtime=Runtime.model_validate(
            {
                "roots": world.roots,
                "store_url": str(world.folder / "store"),
                "scratch_dir": str(world.folder / "scratch"),
                "lease_s": 30,
                "heartbeat_s": 10,
                "num_workers": 1,
                "shards_per_task": 1,
                "threads_per_worker": 1,
                "composer_threads": 1,
                "micro_batch": 4,
                "idle_release_s": 0,
            }
            | (runtime or {})
        ),
    )


def attempt(
    world: World,
    service: FakeService,
    *,
    token: int = 1,
    num_workers: int = 1,
    make_executor: Callable[..., Executor] | None = None,
    num_fixed_rows: int = 256,
    runtime: dict[str, object] | None = None,
    bundle: AttemptBundle | None = None,
) -> str:
    """Run one attempt of the service's job in this process."""
    bundle = bundle or bundle_of(world, service, token=token, runtime=runtime)
    profile: NumericsProfile = settle_numerics(bundle, service)
    needs = find_needs(bundle, service, profile, folder=world.folder / "scratch" / str(token))
    make = make_executor or InProcessExecutor
    executor = make(needs.settings, embed=needs.embed, spec=needs.spec, num_workers=num_workers)
    store = LocalStore(bundle.runtime.store_url, folder=Path(bundle.runtime.store_url))
    try:
        service.released = run_attempt(
            bundle,
            service,
            store,
            executor,
            needs=needs,
            progress=Progress(),
            pause=lambda seconds: None,
            num_fixed_rows=num_fixed_rows,
        )
        return "released" if service.released else "published"
    finally:
        executor.close()


def published(world: World, service: FakeService) -> list[tuple[str, str]]:
    """Return name and digest of every list, after checking that the files are what was committed."""
    found = []
    for commit in service.commits:
        data = (world.folder / "store" / commit.list_key).read_bytes()
        assert sha256(data).hexdigest() == commit.sha256
        found.append((commit.list_name, commit.sha256))
    return found
