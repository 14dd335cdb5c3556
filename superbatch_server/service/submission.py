"""Everything about a job that can be refused before it is accepted, and the defaults that are fixed then."""

from __future__ import annotations

import os
from dataclasses import dataclass

from sqlalchemy import Connection

from superbatch.formats.schedule import Schedule, largest_super_batch, parse_schedule, super_batch_size
from superbatch_server.schemas.datasets import Dataset
from superbatch_server.schemas.errors import (
    DatasetNotReady,
    ModelNotReady,
    NotFound,
    RepetitionCapTooLow,
    ReplayMismatch,
    ResourcesTooSmall,
    SuperBatchTooLarge,
    WeightsMissing,
)
from superbatch_server.schemas.jobs import CurateSpec, Job
from superbatch_server.schemas.models import Model
from superbatch_server.service.catalog import datasets, jobs, models
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.queue import submit_job
from superbatch_server.service.settings import Settings

LARGEST_BLOCK_ROWS = 256
BLOCKS_PER_SUPER_BATCH = 16
REFUSED_LOAD = 4.0
"""Threads per core above which a job is not accepted; above 1 it is told."""


def submit(connection: Connection, spec: CurateSpec, *, settings: Settings, num_cores: int | None = None) -> Job:
    """Check a spec against data set, models, replayed job and machine, fix its defaults, and queue the job."""
    dataset = _ready_dataset(connection, spec)
    _check_models(connection, spec)
    _check_size(spec, dataset)
    _check_cap(spec, dataset)
    resolved = with_block_rows(_replaying(connection, spec))
    load = check_load(settings, num_cores or os.cpu_count() or 1)
    job = jobs.job_of(submit_job(connection, resolved))
    if load.threads > load.cores:
        message = f"{load}: workers will wait for each other"
        add_event(connection, job.id, "resources_short", message, {"threads": load.threads, "cores": load.cores})
    tight = _tight_cap(resolved, dataset)
    if tight is not None:
        add_event(connection, job.id, "repetition_cap_tight", tight)
    return job


@dataclass(frozen=True)
class Load:
    """The threads that an attempt runs at once, and the cores that there are."""

    threads: int
    cores: int

    def __str__(self) -> str:
        return f"{self.threads} threads on {self.cores} cores ({self.threads / self.cores:.1f} times as many)"


def check_load(settings: Settings, cores: int) -> Load:
    """Return the load of an attempt, or raise ResourcesTooSmall when it is far above the machine."""
    workers = settings.num_workers * settings.threads_per_worker
    load = Load(threads=max(workers, settings.composer_threads), cores=cores)
    if load.threads > REFUSED_LOAD * cores:
        raise ResourcesTooSmall(
            f"workers * threads must be at most {REFUSED_LOAD:g} times the cores; got {settings.num_workers} * "
            f"{settings.threads_per_worker}, composer {settings.composer_threads}: {load} (settings). "
            "Lower SUPERBATCH_NUM_WORKERS, SUPERBATCH_THREADS_PER_WORKER or SUPERBATCH_COMPOSER_THREADS."
        )
    return load


def with_block_rows(spec: CurateSpec) -> CurateSpec:
    """Return the spec with `draw.block_rows` filled in: at least 16 blocks in the smallest super-batch."""
    if spec.draw.block_rows is not None:
        return spec
    block_rows = max(1, min(LARGEST_BLOCK_ROWS, _smallest_super_batch(spec) // BLOCKS_PER_SUPER_BATCH))
    return spec.model_copy(update={"draw": spec.draw.model_copy(update={"block_rows": block_rows})})


def _ready_dataset(connection: Connection, spec: CurateSpec) -> Dataset:
    try:
        dataset = datasets.get_dataset(connection, spec.dataset)
    except NotFound as error:
        raise DatasetNotReady(f"{error} Register it first.") from error
    datasets.require_ready(dataset)
    return dataset


def _check_models(connection: Connection, spec: CurateSpec) -> None:
    if spec.reference is not None:
        _require_weights(_ready_model(connection, spec.reference), "reference", "Name a model with weights.")
    if spec.learner is None:
        return
    learner = _ready_model(connection, spec.learner.model)
    if not spec.pushes:
        _require_weights(learner, "learner.model", "Name a model with weights, or set learner.updates = 'pushed'.")
    elif spec.refresh.before_first == "initial_weights":
        _require_weights(
            learner, "refresh.before_first = initial_weights", "Name a model with weights, or another before_first."
        )


def _ready_model(connection: Connection, model_id: str) -> Model:
    try:
        model = models.get_model(connection, model_id)
    except NotFound as error:
        raise ModelNotReady(f"{error} Register it first.") from error
    models.require_ready(model)
    return model


def _require_weights(model: Model, field: str, remedy: str) -> None:
    if not model.manifest.has_weights:
        raise WeightsMissing(
            f"a model that embeds before any checkpoint must have weights; got none (model {model.id}, field {field}). "
            f"{remedy}"
        )


def _check_size(spec: CurateSpec, dataset: Dataset) -> None:
    largest = largest_super_batch(spec.selection.b, _f(spec), spec.num_batches)
    assert dataset.rows is not None
    if largest > dataset.rows:
        raise SuperBatchTooLarge(
            f"the largest super-batch must fit the data set; got B = {largest} candidates (b = {spec.selection.b}), "
            f"the data set has {dataset.rows} rows (dataset {dataset.id}). Lower f or b, or add rows."
        )


def _check_cap(spec: CurateSpec, dataset: Dataset) -> None:
    cap, b = spec.selection.repetition_cap, spec.selection.b
    assert dataset.rows is not None
    if cap is not None and spec.num_batches * b > cap * dataset.rows:
        raise RepetitionCapTooLow(
            f"num_batches * b must not exceed repetition_cap * rows; got {spec.num_batches} * {b} = "
            f"{spec.num_batches * b} and {cap} * {dataset.rows} = {cap * dataset.rows} (dataset {dataset.id}). "
            f"Raise repetition_cap to {-(-spec.num_batches * b // dataset.rows)}, or lower num_batches to "
            f"{cap * dataset.rows // b}."
        )


def _tight_cap(spec: CurateSpec, dataset: Dataset) -> str | None:
    """Return what to tell of a cap that may leave some super-batch fewer than b rows, None where it cannot.

    Before batch s at most s * b / cap rows are at the cap. Were they spread evenly, a super-batch would keep b rows as
    long as that is at most the share f of all rows.
    """
    cap, b = spec.selection.repetition_cap, spec.selection.b
    assert dataset.rows is not None
    if cap is None:
        return None
    f = _f(spec)
    turns = f.turning_seqs(stop_seq=spec.num_batches)
    for seq in sorted({*turns, *(turn - 1 for turn in turns if turn)}):
        if seq * b > f.at(seq) * cap * dataset.rows:
            return (
                f"by batch {seq} so many rows may be at the repetition cap that fewer than b = {b} of a super-batch "
                f"are left, and the job would fail: {seq} * {b} = {seq * b} examples are then chosen, more than "
                f"f * repetition_cap * rows = {f.at(seq):g} * {cap} * {dataset.rows}"
            )
    return None


def _replaying(connection: Connection, spec: CurateSpec) -> CurateSpec:
    """Check the job whose schedule is replayed; its walk counts in its own blocks, so block_rows is taken from it.

    A recorded row means what it says only with the models, the seed and the selection that it was recorded under.
    """
    if spec.refresh.replay is None:
        return spec
    try:
        replayed = jobs.hold_job(connection, spec.refresh.replay)
    except NotFound as error:
        raise ReplayMismatch(f"{error} Name a job that has published its batches.") from error
    block_rows = replayed.spec.draw.block_rows
    mismatches: dict[str, tuple[object, object]] = {
        "dataset": (replayed.spec.dataset, spec.dataset),
        "reference": (replayed.spec.reference, spec.reference),
        "learner.model": (_learner_model(replayed.spec), _learner_model(spec)),
        "seed": (replayed.spec.seed, spec.seed),
        "draw.block_rows": (block_rows, spec.draw.block_rows or block_rows),
    }
    recorded_selection = replayed.spec.selection.model_dump(mode="json")
    for field, wanted in spec.selection.model_dump(mode="json").items():
        mismatches[f"selection.{field}"] = (recorded_selection[field], wanted)
    for field, (recorded, wanted) in mismatches.items():
        if recorded != wanted:
            raise ReplayMismatch(
                f"a replayed schedule must be of the same {field}; got {wanted}, recorded with {recorded} "
                f"(job {replayed.id}). Submit with the recorded one."
            )
    if replayed.next_seq < spec.num_batches:
        raise ReplayMismatch(
            f"a replayed schedule must reach num_batches; got {spec.num_batches}, recorded are {replayed.next_seq} "
            f"(job {replayed.id}). Lower num_batches, or let that job go on."
        )
    return spec.model_copy(update={"draw": spec.draw.model_copy(update={"block_rows": block_rows})})


def _learner_model(spec: CurateSpec) -> str | None:
    return spec.learner.model if spec.learner else None


def _smallest_super_batch(spec: CurateSpec) -> int:
    f = _f(spec)
    return min(super_batch_size(spec.selection.b, f.at(seq)) for seq in f.turning_seqs(stop_seq=spec.num_batches))


def _f(spec: CurateSpec) -> Schedule[float]:
    return parse_schedule(spec.selection.model_dump(mode="json")["f"])
