"""The Lightning callback under a real Trainer: order, accumulation, checkpoints, resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from superbatch.conformance.faults import ServerFaults
from superbatch.conformance.sample_job import SampleJob
from superbatch.conformance.service import SampleService
from superbatch.formats.errors import InvalidInput, RevokedBatch
from superbatch.torch import CuratedLoader, Workers
from superbatch.torch.lightning import CurationCallback, _count_from_batch
from tests.superbatch.torch.world import NUM_BATCHES, in_memory, own_uids, to_sample, uids_of

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own hints on workers and loggers


class Counts(pl.LightningModule):
    """A module that learns nothing and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, int, list[bytes]]] = []

    def training_step(self, batch: dict[str, object], batch_idx: int) -> torch.Tensor:
        held = batch["superbatch"]
        self.seen.append((held.seq, held.micro, uids_of(batch)))  # type: ignore[attr-defined]
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(loader: CuratedLoader, folder: Path, **options: object) -> pl.Trainer:
    plain = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "default_root_dir": folder,
        "enable_checkpointing": False,
    }
    return pl.Trainer(**{**plain, "callbacks": [CurationCallback(loader)], **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_trains_the_log_and_reports_it(
    service: SampleService, job: SampleJob, tmp_path: Path, accumulation: int
) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t", accumulation=accumulation)
    module = Counts()
    trainer(loader, tmp_path, accumulate_grad_batches=accumulation).fit(module, loader)
    assert module.seen == [
        (seq, micro, own_uids(job, seq, 0, world_size=1, accumulation=accumulation, micro=micro))
        for seq in range(NUM_BATCHES)
        for micro in range(accumulation)
    ]
    report = service.registry.reports["t"]
    assert (report["trained_seq"], report["read_ahead"]) == (NUM_BATCHES, 1)
    loader.close()


def test_a_checkpoint_holds_the_state_of_what_was_trained_and_resumes_there(
    service: SampleService, job: SampleJob, tmp_path: Path
) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t")
    saves = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    durable: list[object] = []
    reads = pl.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_: durable.append(service.registry.reports["t"]["durable_seq"])
    )
    options = {"enable_checkpointing": True, "callbacks": [CurationCallback(loader), reads, saves]}
    trainer(loader, tmp_path, max_steps=8, **options).fit(Counts(), loader)
    assert service.registry.reports["t"]["trained_seq"] == 8
    assert durable == [0, 0, 0, 0, 0, 0, 3, 3], "a checkpoint counts when the next one begins"
    assert service.registry.reports["t"]["durable_seq"] == 6, "the last checkpoint, reported when training ended"
    loader.close()
    for step in (3, 6):
        again = CuratedLoader(in_memory(service), to_sample, name="t")
        module = Counts()
        trainer(again, tmp_path, max_steps=step + 2).fit(module, again, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert [seq for seq, _, _ in module.seen] == [step, step + 1]
        assert again.state_dict() == job.state_at(step + 2)
        again.close()


def test_another_accumulation_than_the_loaders_is_refused(service: SampleService, tmp_path: Path) -> None:
    loader = CuratedLoader(in_memory(service), to_sample)
    with pytest.raises(InvalidInput, match="accumulate_grad_batches=1 with accumulation=2"):
        trainer(
            loader, tmp_path, callbacks=[CurationCallback(CuratedLoader(in_memory(service), to_sample, accumulation=2))]
        ).fit(Counts(), loader)
    loader.close()


class Saves(pl.Callback):
    """Saves after one micro-step."""

    def __init__(self, path: Path, *, after: int) -> None:
        self._path, self._after = path, after

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self._after -= 1
        if self._after == 0:
            trainer.save_checkpoint(self._path)


class Stepping(Counts):
    """Remembers what was in each optimizer step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[tuple[int, int]]] = []

    def on_before_optimizer_step(self, _: torch.optim.Optimizer) -> None:
        num_before = sum(map(len, self.steps))
        self.steps.append([(seq, micro) for seq, micro, _ in self.seen[num_before:]])


@pytest.mark.parametrize("epochs", [{}, {"limit_train_batches": 12, "max_epochs": 9}])
@pytest.mark.parametrize("counts", [(6, 2, 4), (7, 2, 2), (7, 2, 1), (1, 2, 4)])
def test_a_resumed_run_begins_with_a_batch_wherever_it_was_saved(
    service: SampleService, tmp_path: Path, counts: tuple[int, int, int], epochs: dict[str, int]
) -> None:
    saved_after, accumulation, following = counts
    path = tmp_path / "saved.ckpt"
    first = CuratedLoader(in_memory(service), to_sample, name="t", accumulation=accumulation)
    callbacks = [CurationCallback(first), Saves(path, after=saved_after)]
    whole = saved_after // accumulation
    options = {"accumulate_grad_batches": accumulation, "max_steps": whole + 1}
    trainer(first, tmp_path, callbacks=callbacks, **options, **epochs).fit(Stepping(), first)
    first.close()
    again = CuratedLoader(in_memory(service), to_sample, name="t", accumulation=following)
    module = Stepping()
    options = {"accumulate_grad_batches": following, "max_steps": whole + 9}
    trainer(again, tmp_path, **options, **epochs).fit(module, again, ckpt_path=path)
    assert module.steps == [[(seq, micro) for micro in range(following)] for seq in range(whole, whole + 9)]
    assert again.trained_seq == whole + 9
    again.close()


class Shifted(pl.Callback):
    """Moves Lightning's count of micro-steps by one, as a checkpoint of another set-up would."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: Counts, batch: object, batch_idx: int) -> None:
        if len(module.seen) == 2:
            trainer.fit_loop.epoch_loop.batch_progress.current.ready += 1


def test_an_optimizer_step_inside_a_batch_ends_the_run(service: SampleService, tmp_path: Path) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t", accumulation=2)
    options = {"callbacks": [Shifted(), CurationCallback(loader)], "accumulate_grad_batches": 2}
    with pytest.raises(InvalidInput, match="got one inside batch 1, after micro-step 0 of 2"):
        trainer(loader, tmp_path, **options).fit(Counts(), loader)
    assert loader.trained_seq == 1
    loader.close()


def test_an_epoch_that_would_end_inside_a_batch_is_refused(service: SampleService, tmp_path: Path) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t", accumulation=2)
    with pytest.raises(InvalidInput, match="limit_train_batches=3, which accumulation=2 does not divide"):
        trainer(loader, tmp_path, accumulate_grad_batches=2, limit_train_batches=3).fit(Counts(), loader)
    loader.close()


def test_a_checkpoint_is_not_saved_between_a_step_and_its_note(service: SampleService, tmp_path: Path) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t")
    callbacks = [Saves(tmp_path / "saved.ckpt", after=2), CurationCallback(loader)]
    with pytest.raises(InvalidInput, match="Put CurationCallback before the callback that saves"):
        trainer(loader, tmp_path, callbacks=callbacks).fit(Counts(), loader)
    loader.close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_batches_before_an_error_of_the_log_are_trained_and_saved(
    service: SampleService, tmp_path: Path, num_workers: int
) -> None:
    service.faults = ServerFaults(revoked_seq=9)
    workers = Workers(num_workers=num_workers, multiprocessing_context="fork")
    loader = CuratedLoader(in_memory(service), to_sample, name="t", workers=workers)
    saves = pl.callbacks.OnExceptionCheckpoint(str(tmp_path))
    with pytest.raises(RevokedBatch):
        trainer(loader, tmp_path, callbacks=[CurationCallback(loader), saves], enable_checkpointing=True).fit(
            Counts(), loader
        )
    assert (loader.trained_seq, loader.is_finished) == (9, False)
    loader.close()
    service.faults = ServerFaults()
    again, module = CuratedLoader(in_memory(service), to_sample, name="t"), Counts()
    trainer(again, tmp_path).fit(module, again, ckpt_path=tmp_path / "on_exception.ckpt")
    assert [seq for seq, _, _ in module.seen] == list(range(9, NUM_BATCHES))
    again.close()


def test_two_callbacks_of_one_loader_count_what_lightning_takes_once(service: SampleService) -> None:
    loader = CuratedLoader(in_memory(service), to_sample, name="t")
    assert loader.log.read_ahead == 0
    for _ in range(2):
        CurationCallback(loader)
    next(iter(loader))
    assert service.registry.reports["t"]["read_ahead"] == 1
    loader.close()


@pytest.mark.parametrize(
    ("counts", "saved", "wanted", "found"),
    [  # (ready, started, processed, completed)
        ((6, 6, 6, 5), 2, 2, (6, 6, 6, 5)),
        ((6, 6, 6, 5), 2, 4, (12, 12, 12, 11)),
        ((6, 6, 6, 6), 2, 1, (3, 3, 3, 3)),
        ((7, 7, 7, 6), 2, 2, (6, 6, 6, 6)),
        ((7, 7, 6, 6), 2, 4, (13, 13, 12, 12)),  # an error inside a micro-step, which is taken back
        ((8, 8, 7, 7), 2, 3, (9, 9, 9, 9)),
        ((1, 1, 1, 0), 2, 4, (0, 0, 0, 0)),
    ],
)
def test_lightnings_counts_begin_with_a_batch(
    counts: tuple[int, ...], saved: int, wanted: int, found: tuple[int, ...]
) -> None:
    names = ("ready", "started", "processed", "completed")
    progress = {
        "current": dict(zip(names, counts, strict=True)),
        "total": {name: count + 100 for name, count in zip(names, counts, strict=True)},
    }
    _count_from_batch(progress, saved=saved, wanted=wanted)
    assert progress["current"] == dict(zip(names, found, strict=True))
    assert progress["total"] == {name: count + 100 for name, count in zip(names, found, strict=True)}
