"""A curated loader: the batches of a job as torch tensors, for one rank, with the position that resumes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, Self

from superbatch.formats.errors import InvalidInput
from superbatch.log import BatchLog
from superbatch.log.reports import Role
from superbatch.reading import ExampleReader
from superbatch.torch.agreement import Agreement, own_share
from superbatch.torch.collate import Batch, Collate, slice_of
from superbatch.torch.dataset import RowReader, Transform
from superbatch.torch.decoding import Decoding, Roots
from superbatch.torch.handed_out import HandedOut
from superbatch.torch.opening import OpenLog, Registration
from superbatch.torch.readable import Item, readable, readable_batch
from superbatch.torch.rows import BatchSlice
from superbatch.torch.splitting import JointSteps, Splitter, Stepper, check_splits
from superbatch.torch.trained_log import TrainedLog
from superbatch.torch.workers import Workers, read_ahead_batches


class CuratedLoader:
    """Iterates over this rank's part of each batch of a job, in order, and keeps the state that resumes it.

    The log is opened, and the trainer registered, when the first batch is asked for. Rank 0 alone registers and
    reports; every rank follows the log. A batch is a dict with the keys of the samples; under "superbatch" it carries
    its BatchSlice (seq, micro, uids). With accumulation it is one micro-step, and A of them make an optimizer step. A
    new iteration begins at the first batch not trained; after a break inside a batch, drop its gradients first. An
    error of the log is raised when every batch before it is trained.

    Args:
        open_log: opens the log at a state.
        transform: decodes an Example into a dict of tensors, numbers or strings, in the workers; a sequence has one
            per variant.
        name: name of this trainer, stable over restarts; None reads without registering or reporting.
        role: "learner" gives credit and checkpoints, and a job has one; any number of "reader"s only keep what they
            have not read from being forgotten. A finished job may be trained again by a reader, or without a name.
        rank, world_size: place among the data-parallel ranks; None for those of torch's process group, which must
            then exist before the first batch is asked for.
        accumulation: micro-steps per optimizer step.
        workers: worker processes; None for none.
        style: "map" asks for batches in this process and reads rows in the workers; "iterable" lets every worker follow
            the log (an IterableDataset), and takes neither persistent workers nor skip_unreadable.
        roots: local path or URL per root, where it differs from what the service says.
        reader: makes the reader from the roots.
        collate_fn: joins a list of samples into a dict; None for torch's default_collate.
        split_variants: hand the parts of each variant apart: batch["variants"] = [full, low, ...].
        skip_unreadable: batches that may be skipped in this run because a row of theirs is unreadable on some rank;
            all ranks skip the whole batch together, and step over what is withdrawn when the log is opened, which
            every rank must then do. 0 raises UnreadableExample and RevokedBatch.
        checkpoint_every: batches between pushed checkpoints; None where none are pushed.
        ttl_s: seconds after which the service stops composing, and takes another learner, when this process is gone.
        rewind: the trainer goes back in the log, after a crash or to train it once more; None: where it begins at a
            saved state, or is a reader.
        look_ahead: micro-steps that the framework takes before it trains them, beyond those of DataLoader.
    Raises:
        InvalidInput: options that do not go together.
    """

    def __init__(
        self,
        open_log: OpenLog,
        transform: Transform | Sequence[Transform],
        *,
        name: str | None = None,
        role: Role = "learner",
        rank: int | None = None,
        world_size: int | None = None,
        accumulation: int = 1,
        workers: Workers | None = None,
        style: Literal["map", "iterable"] = "map",
        roots: Roots | None = None,
        reader: Callable[[Roots], RowReader] = ExampleReader,
        collate_fn: Collate | None = None,
        split_variants: bool = False,
        skip_unreadable: int = 0,
        checkpoint_every: int | None = None,
        ttl_s: float = 120.0,
        rewind: bool | None = None,
        look_ahead: int = 0,
    ) -> None:
        self._workers = Workers() if workers is None else workers
        if style == "iterable" and (self._workers.persistent_workers or skip_unreadable):
            raise InvalidInput(
                "the workers of an iterable style cannot be told where to begin again, or what was skipped; got "
                f"persistent_workers={self._workers.persistent_workers}, skip_unreadable={skip_unreadable}. "
                'Use style="map", or leave both off.'
            )
        self.accumulation = accumulation
        self._open_log = open_log
        self._decoding = Decoding(transform, roots or {}, reader, collate_fn, split_variants)
        self._registration = Registration(name, role, checkpoint_every, ttl_s, rewind)
        self._place = rank, world_size
        self._style = style
        self._skip_unreadable = skip_unreadable
        self._ahead = {"": look_ahead}
        self._splitter: Splitter | None = None
        self._joint_steps: JointSteps | None = None
        self._state: Mapping[str, object] | None = None
        self._agreement: Agreement | None = None
        self._trained_log: TrainedLog | None = None
        self._items: Iterable[Item] | None = None
        self._has_begun = False
        self._handed_out = HandedOut(ahead=0, accumulation=accumulation)

    def __iter__(self) -> Iterator[Batch]:
        # A generator, because Lightning makes an iterator only to see whether it can, before it loads a state.
        trained_log, self._has_begun = self.trained_log, True
        trained_log.begin_again()
        if self._joint_steps is not None:
            self._joint_steps.align()
        self._handed_out = HandedOut(ahead=sum(self._ahead.values()), accumulation=self.accumulation)
        yield from self._handed_out.pass_on(self._batches(trained_log))

    def trained(self, batch: Mapping[str, object] | BatchSlice) -> None:
        """Note that this rank trained a batch of this loader (with accumulation: a micro-step); every rank calls it.

        Call it after the optimizer step, and before a checkpoint is saved. Rank 0 reports to the service after each
        whole batch.

        Args:
            batch: as this loader gave it, or the BatchSlice that it carried.
        Raises:
            InvalidInput: not the next one of the log, no batch of a curated loader, or an optimizer step of accelerate
                that is not one batch.
            ServiceError, HistoryChanged, ServiceUnreachable: the report was refused or could not be delivered.
            LogError: what the iteration would have raised, had the framework not asked it for more before this.
        """
        found = slice_of(batch)
        if self._joint_steps is not None:
            self._joint_steps.check(found)
        self.trained_log.trained(found)
        self._handed_out.trained()

    def saved(self, state: Mapping[str, object]) -> None:
        """Report that a checkpoint of the trainer with this state is on disk; rank 0 tells the service.

        Args:
            state: what `state_dict` returned for that checkpoint.
        Raises:
            InvalidInput: a state beyond what is trained.
        """
        self.trained_log.saved(state)

    def state_dict(self) -> dict[str, object]:
        """Return what resumes after the last trained batch: plain JSON, the same on all ranks, for any world size.

        Save it in the trainer's checkpoint. Lightning, and accelerate's register_for_checkpointing, ask for it by this
        name. Inside an accumulated batch it is the state before that batch, whose gradients no checkpoint holds.
        """
        if self._trained_log is not None:
            return dict(self._trained_log.state())
        if self._state is not None:
            return dict(self._state)
        with self._open_log(state=None, read_ahead=0) as log:
            return dict(log.state())

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Begin at a saved state; call it before the first batch is asked for.

        Raises:
            InvalidInput: the loader has begun somewhere else.
        """
        if self._trained_log is None or dict(state_dict) != self.state_dict():
            self._open_anew(f"a state at batch {state_dict.get('next_seq')!r}")
        self._state = dict(state_dict)

    def takes_ahead(self, framework: str, micro_steps: int) -> None:
        """Count the micro-steps that a framework takes before it trains them; said again, it counts once.

        Args:
            framework: its name.
            micro_steps: beyond those of DataLoader.
        Raises:
            InvalidInput: the loader has begun, and registered with another number.
        """
        if self._ahead.get(framework) != micro_steps:
            self._open_anew(f"{micro_steps} micro-steps that {framework} takes ahead")
            self._ahead[framework] = micro_steps

    @property
    def trained_seq(self) -> int:
        """Batches of the job that are trained: the seq of the next one."""
        return self.trained_log.trained_seq

    @property
    def num_trained(self) -> int:
        """Whole batches that this loader saw trained, without those that were skipped."""
        return 0 if self._trained_log is None else self._trained_log.num_trained

    @property
    def is_finished(self) -> bool:
        """Claim that the log is known to have ended and its last batch is trained."""
        return self._trained_log is not None and self._trained_log.window.is_finished

    @property
    def log(self) -> BatchLog:
        """The log, for its manifest, and for `push_checkpoint` on rank 0; opens it."""
        return self.trained_log.log

    @property
    def trained_log(self) -> TrainedLog:
        """The log with what is trained of it; opens it, and registers on rank 0."""
        if self._trained_log is None:
            self._trained_log = self._open()
        return self._trained_log

    def close(self) -> None:
        """End the workers and close the log."""
        self._items = None
        if self._trained_log is not None:
            self._trained_log.log.close()

    def prepared_by(self, accelerator: Stepper) -> Self:
        """Let accelerate cut the batches and move them to its device; returns this loader.

        Call it instead of accelerator.prepare(loader). Its optimizer steps are held to the batches: they begin with
        one, wherever a loaded checkpoint left accelerate's own count, and `trained` refuses any other.

        Args:
            accelerator: an Accelerator whose DataLoaderConfiguration has split_batches=True.
        Raises:
            InvalidInput: accelerate would give whole batches to single ranks, read on one rank alone, step after
                another number of micro-steps, or knows of one process where the launcher started several.
        """
        steps = JointSteps(accelerator, accumulation=self.accumulation)
        self.split_by(accelerator)
        self._joint_steps = steps
        return self

    def split_by(self, splitter: Splitter) -> Self:
        """Let accelerate cut the batches, for a framework that decides itself when it steps: HF Trainer.

        Raises:
            InvalidInput: as `prepared_by`, but for the micro-steps; or the loader has begun under other ranks.
        """
        check_splits(splitter, style=self._style)
        place = splitter.process_index, splitter.num_processes
        if self._splitter is None or self._place != place:
            self._open_anew(f"rank {place[0]} of {place[1]}")
        if self._splitter is not splitter:
            self._items = None
        self._place, self._splitter = place, splitter
        return self

    def _open(self) -> TrainedLog:
        share = own_share(*self._place, accumulation=self.accumulation)
        items_ahead = self._workers.items_ahead + sum(self._ahead.values())
        if self._splitter is not None:
            items_ahead += 1  # accelerate takes one more, to know which is the last
        if self._skip_unreadable:
            items_ahead += self.accumulation - 1
            self._agreement = Agreement(share)
        return self._registration.open(
            self._open_log,
            share=share,
            state=self._state,
            read_ahead=read_ahead_batches(items_ahead, accumulation=self.accumulation),
            agreement=self._agreement,
        )

    def _open_anew(self, wanted: str) -> None:
        """Forget an opened log, so that it is opened once more under other terms."""
        if self._has_begun:
            raise InvalidInput(
                f"a loader gets its state, its ranks and its framework before it begins; got {wanted} at batch "
                f"{self.trained_seq}. Make a new CuratedLoader for it."
            )
        self.close()
        self._trained_log = self._agreement = None

    def _batches(self, trained_log: TrainedLog) -> Iterator[Batch]:
        items = iter(self._dataloader())
        if self._agreement is not None:
            yield from readable(items, trained_log, agreement=self._agreement, max_skipped=self._skip_unreadable)
        else:
            yield from map(readable_batch, items)
        trained_log.window.raise_error()

    def _dataloader(self) -> Iterable[Item]:
        trained_log = self.trained_log
        if self._style == "iterable":  # it begins where the training stands
            return self._decoding.iterable_loader(trained_log, self._workers, self._open_log)
        if self._items is None:
            loader = self._decoding.map_loader(
                trained_log,
                self._workers,
                whole=self._splitter is not None,
                marks_unreadable=self._skip_unreadable > 0,
            )
            self._items = loader if self._splitter is None else self._splitter.prepare_data_loader(loader)
        return self._items
