"""One attempt, put together: what is needed, index pass in the background, composing loop in the foreground."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Protocol

import torch

from superbatch_server.encoders.numerics import NumericsProfile, local_profile
from superbatch_server.schemas.attempts import AttemptBundle, Numerics, Release, WalkPosition
from superbatch_server.schemas.datasets import ShardEntry
from superbatch_server.schemas.errors import NumericsChanged
from superbatch_server.schemas.jobs import Phase
from superbatch_server.storage.roots import open_roots
from superbatch_server.storage.store import ArtifactStore
from superbatch_server.workers.candidates import CandidateTables
from superbatch_server.workers.embedding_table import put_embedding_table
from superbatch_server.workers.executors import Executor
from superbatch_server.workers.index import IndexSpec
from superbatch_server.workers.index_pass import CacheService, IndexPass, PassPlan, plan_pass
from superbatch_server.workers.lists import ListWriter, SegmentService, log_prefix, put_files
from superbatch_server.workers.model_files import EncoderShelf, model_files
from superbatch_server.workers.pipeline import Pipeline, RefreshService
from superbatch_server.workers.pool import Pool
from superbatch_server.workers.progress import Progress
from superbatch_server.workers.schedule import ScheduleBook, ScheduleRecorder, largest_super_batch_of
from superbatch_server.workers.shard_task import EmbedSpec
from superbatch_server.workers.times_chosen import TimesChosen, read_times_chosen
from superbatch_server.workers.verify import NUM_FIXED_ROWS, CheckpointVerifier
from superbatch_server.workers.walk import Walk, WalkShard
from superbatch_server.workers.worker_settings import WorkerSettings

log = logging.getLogger(__name__)


class AttemptService(CacheService, ScheduleRecorder, SegmentService, RefreshService, Protocol):
    """The whole internal API that an attempt uses; `AttemptClient` is the real one."""

    def record_numerics(self, numerics: Numerics) -> Numerics:
        """Record the profile, or agree with the recorded one."""
        ...


@dataclass(frozen=True)
class Needs:
    """What an attempt must do, known before anything is started."""

    settings: WorkerSettings
    embed: EmbedSpec | None
    spec: IndexSpec
    plan: PassPlan
    walk: Walk
    scores: bool
    """The learner will be asked."""
    composer_threads: int
    """From the profile, which may be older than the deployment's settings."""

    @property
    def num_pools(self) -> int:
        """Pools of workers that Ray must hold at the same time; 0 where no Ray is needed."""
        embeds = any(not task.has_embedding for task in self.plan.tasks)
        return int(self.scores) + int(bool(self.plan.tasks)) if self.scores or embeds else 0

    @property
    def pass_phase(self) -> Phase:
        """What the attempt does until the pass is over."""
        return Phase.INDEXING if self.embed is None else Phase.EMBEDDING


def settle_numerics(bundle: AttemptBundle, service: AttemptService) -> NumericsProfile:
    """Return the job's profile: the recorded one, or this machine's under the deployment's settings.

    Raises: NumericsChanged when this machine cannot keep the recorded one.
    """
    recorded = NumericsProfile(**bundle.numerics) if bundle.numerics else None  # type: ignore[arg-type]
    runtime = bundle.runtime
    here = local_profile(
        dtype=recorded.dtype if recorded else "float32",
        threads_per_worker=recorded.threads_per_worker if recorded else runtime.threads_per_worker,
        composer_threads=recorded.composer_threads if recorded else runtime.composer_threads,
        micro_batch=recorded.micro_batch if recorded else runtime.micro_batch,
    )
    if recorded is not None and here != recorded:
        raise NumericsChanged(
            f"every attempt of a job must run under one numerics profile; got {here.to_json()}, the job began under "
            f"{recorded.to_json()} (job {bundle.job_id}). Run it on such a machine, or submit a new job."
        )
    service.record_numerics(Numerics(profile=asdict(here), digest=here.digest()))
    return here


def find_needs(bundle: AttemptBundle, service: AttemptService, profile: NumericsProfile, *, folder: Path) -> Needs:
    """Return what the attempt must do; loads the reference once, so that one that cannot be loaded is told now."""
    settings = WorkerSettings(
        roots=bundle.runtime.roots,
        store_url=bundle.runtime.store_url,
        writer=f"{bundle.job_id}-{bundle.token}",
        scratch=str(folder),
        threads=profile.threads_per_worker,
        dtype=profile.dtype,
        micro_batch=profile.micro_batch,
    )
    spec = IndexSpec(caption_suffix=bundle.manifest.caption_field)
    embed = _embed_spec(bundle, settings, profile)
    walk = walk_of(bundle)
    by_id = {shard.shard_id: shard for shard in bundle.shards}
    plan = plan_pass(
        [by_id[shard_id] for shard_id in walk.shards_in_order(bundle.next_walk)],
        service,
        root=bundle.manifest.root,
        fingerprint=bundle.dataset_fingerprint,
        spec=spec,
        embed=embed,
    )
    return Needs(settings, embed, spec, plan, walk, scores=_scores(bundle), composer_threads=profile.composer_threads)


def run_attempt(
    bundle: AttemptBundle,
    service: AttemptService,
    store: ArtifactStore,
    executor: Executor,
    *,
    needs: Needs,
    progress: Progress,
    pause: Callable[[float], None] = sleep,
    num_fixed_rows: int = NUM_FIXED_ROWS,
) -> Release | None:
    """Run pass and composing loop until all is published and indexed, or until the job had better be released."""
    put_files(store, bundle.log_files)
    torch.set_num_threads(needs.composer_threads)
    pool = Pool(bundle.shards, store)
    tables = CandidateTables(bundle.shards, pool, root=bundle.manifest.root)
    progress.enter(needs.pass_phase)
    progress.note(shards_total=len(bundle.shards), rows_total=bundle.dataset_rows, batches_published=bundle.next_seq)
    largest_B = largest_super_batch_of(bundle.spec, from_seq=bundle.next_seq)
    index_pass = IndexPass(
        needs.plan,
        executor,
        service,
        pool=pool,
        progress=progress,
        largest_B=largest_B,
        on_complete=lambda: put_embedding_table(bundle, store, pool),
    )
    Thread(target=index_pass.run, name="index-pass", daemon=True).start()
    pipeline = Pipeline(
        bundle,
        service,
        book=ScheduleBook(bundle, service, micro_batch=needs.settings.micro_batch),
        writer=ListWriter(bundle, service, store),
        walk=needs.walk,
        pool=pool,
        tables=tables,
        executor=executor,
        verifier=_verifier(bundle, executor, pool, tables, needs=needs, num_rows=num_fixed_rows),
        times_chosen=_times_chosen(bundle, store),
        progress=progress,
        pass_phase=needs.pass_phase,
        pause=pause,
    )
    release = pipeline.run()
    if release is None and not pool.is_complete:
        progress.enter(needs.pass_phase)
    if release is None:
        pool.wait_reported()
    return release


def walk_of(bundle: AttemptBundle) -> Walk:
    """Return the walk of a job."""
    assert bundle.spec.draw.block_rows is not None, "fixed at submission"
    shards = [_walk_shard(shard) for shard in bundle.shards]
    return Walk(shards, block_rows=bundle.spec.draw.block_rows, seed=bundle.spec.seed)


def _walk_shard(shard: ShardEntry) -> WalkShard:
    assert shard.start_index is not None, "a READY data set knows its rows"
    assert shard.rows is not None
    return WalkShard(shard.shard_id, shard.start_index, shard.rows)


def _embed_spec(bundle: AttemptBundle, settings: WorkerSettings, profile: NumericsProfile) -> EmbedSpec | None:
    if bundle.reference is None:
        return None
    files = model_files(bundle.reference)
    shelf = EncoderShelf(
        open_roots(settings.roots), folder=settings.model_folder, threads=settings.threads, dtype=settings.dtype
    )
    return EmbedSpec(files, encoder_digest=shelf.get(files).digest, numerics_digest=profile.digest())


def _scores(bundle: AttemptBundle) -> bool:
    spec = bundle.spec
    if spec.learner is None or bundle.next_seq >= spec.num_batches:
        return False
    return any(criterion.uses_learner for criterion in spec.criteria())


def _times_chosen(bundle: AttemptBundle, store: ArtifactStore) -> TimesChosen | None:
    """Return how often each example was chosen in the batches published so far; None for a job without a cap."""
    if bundle.spec.selection.repetition_cap is None:
        return None
    return read_times_chosen(store, prefix=log_prefix(bundle), stop_seq=bundle.next_seq)


def _verifier(
    bundle: AttemptBundle, executor: Executor, pool: Pool, tables: CandidateTables, *, needs: Needs, num_rows: int
) -> CheckpointVerifier | None:
    if bundle.learner is None or not needs.scores:
        return None
    return CheckpointVerifier(
        executor,
        pool,
        tables,
        learner=bundle.learner,
        order=needs.walk.shards_in_order(WalkPosition()),
        micro_batch=needs.settings.micro_batch,
        num_rows=num_rows,
    )
