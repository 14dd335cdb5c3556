"""A curated loader: the batches of a job as torch tensors, for one rank, with the position that resumes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, Protocol, Self

from torch.utils.data import DataLoader

from superbatch.formats.errors import InvalidInput
from superbatch.log import BatchLog, LogState
from superbatch.reading import ExampleReader
from superbatch.reading.addresses import Address
from superbatch.torch.agreement import agreement, own_share
from superbatch.torch.collate import Batch, Collate, CuratedCollate, slice_of
from superbatch.torch.dataset import ExampleDataset, RowReader, Transform
from superbatch.torch.iterable import CuratedIterableDataset
from superbatch.torch.readable import readable, readable_batch
from superbatch.torch.rows import BatchSlice
from superbatch.torch.sampler import CuratedBatchSampler
from superbatch.torch.trained_log import TrainedLog
from superbatch.torch.workers import Item, Workers, read_ahead_batches

Roots = Mapping[str, Address]


class OpenLog(Protocol):
    """Opens a job's log at a state: `partial(BatchLog, url, job, token=token)`."""

    def __call__(self, *, state: Mapping[str, object] | None, read_ahead: int) -> BatchLog:
        """Return a log that has handed out nothing yet."""
        ...


class Splitter(Protocol):
    """A framework that cuts global batches into the parts of its ranks: accelerate's Accelerator."""

    @property
    def split_batches(self) -> bool:
        """Whether each process gets a part of every batch."""
        ...

    @property
    def dispatch_batches(self) -> bool | None:
        """Whether process 0 reads for all."""
        ...

    @property
    def num_processes(self) -> int:
        """Data-parallel processes."""
        ...

    @property
    def process_index(self) -> int:
        """This one's number."""
        ...

    def prepare_data_loader(self, data_loader: DataLoader[Item]) -> Iterable[Item]:
        """Return a loader of this rank's parts."""
        ...


class CuratedLoader:
    """Iterates over this rank's part of each batch of a job, in order, and keeps the state that resumes it.

    The log is opened, and the trainer registered, when the first batch is asked for. Rank 0 alone registers and
    reports; every rank follows the log. A batch is a dict with the keys of the samples; under "superbatch" it carries
    its BatchSlice (seq, micro, uids). With accumulation it is one micro-step, and A of them make an optimizer step. A
    new iteration begins at the first batch not trained.

    Args:
        open_log: opens the log at a state.
        transform: decodes an Example into a dict of tensors, numbers or strings, in the workers; a sequence has one
            per variant.
        name: name of this trainer, stable over restarts; None reads without registering or reporting.
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
            all ranks skip the whole batch together. 0 raises UnreadableExample.
        checkpoint_every: batches between pushed checkpoints; None where none are pushed.
        ttl_s: seconds of silence after which the service stops composing; longer than the longest step.
        rewind: the trainer goes back in the log after a crash; None: where it begins at a saved state.
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
        self.look_ahead = look_ahead
        self._open_log = open_log
        self._transform = transform
        self._name = name
        self._place = rank, world_size
        self._style = style
        self._roots = roots or {}
        self._reader = reader
        self._collate_fn = collate_fn
        self._split_variants = split_variants
        self._skip_unreadable = skip_unreadable
        self._checkpoint_every = checkpoint_every
        self._ttl_s = ttl_s
        self._rewind = rewind
        self._splitter: Splitter | None = None
        self._state: Mapping[str, object] | None = None
        self._trained_log: TrainedLog | None = None
        self._items: Iterable[Item] | None = None

    def __iter__(self) -> Iterator[Batch]:
        # A generator, because Lightning makes an iterator only to see whether it can, before it loads a state.
        trained_log, items = self.trained_log, iter(self._dataloader())
        if self._skip_unreadable:
            agree = agreement(trained_log.share)
            yield from readable(items, trained_log, agree=agree, max_skipped=self._skip_unreadable)
        else:
            yield from (readable_batch(item) for item in items)

    def trained(self, batch: Mapping[str, object] | BatchSlice) -> None:
        """Note that this rank trained a batch of this loader (with accumulation: a micro-step); every rank calls it.

        Call it after the optimizer step. Rank 0 reports to the service after each whole batch.

        Args:
            batch: as this loader gave it, or the BatchSlice that it carried.
        Raises:
            InvalidInput: not the next one of the log, or no batch of a curated loader.
            ServiceError, HistoryChanged, ServiceUnreachable: the report was refused or could not be delivered.
        """
        self.trained_log.trained(slice_of(batch))

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
        name.
        """
        return dict(self.trained_log.state())

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Begin at a saved state; call it before the first batch is asked for.

        Raises:
            InvalidInput: the loader stands somewhere else already.
        """
        if self._trained_log is not None and dict(state_dict) != self.state_dict():
            raise InvalidInput(
                f"a loader resumes before it begins; got a state at batch {state_dict.get('next_seq')!r} at batch "
                f"{self.trained_seq}. Make a new CuratedLoader for it."
            )
        self._state = dict(state_dict)

    @property
    def trained_seq(self) -> int:
        """Batches of the job that are trained: the seq of the next one."""
        return self.trained_log.trained_seq

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

    def prepared_by(self, splitter: Splitter) -> Self:
        """Let accelerate cut the batches and move them to its device; returns this loader.

        Call it instead of accelerator.prepare(loader).

        Args:
            splitter: an Accelerator whose DataLoaderConfiguration has split_batches=True.
        Raises:
            InvalidInput: accelerate would give whole batches to single ranks, or read on one rank alone.
        """
        if splitter.num_processes > 1 and not splitter.split_batches:
            raise InvalidInput(
                "accelerate must split every batch over its processes, else ranks get different batches; got "
                f"split_batches=False with {splitter.num_processes} processes. "
                "Use Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=True)), with HF Trainer "
                'TrainingArguments(accelerator_config={"split_batches": True}).'
            )
        if self._style != "map" or splitter.dispatch_batches:
            raise InvalidInput(
                "accelerate splits batches that every rank asks for itself; got style "
                f"{self._style!r}, dispatch_batches={splitter.dispatch_batches}. "
                'Use style="map" and leave dispatch_batches off.'
            )
        if self._splitter is None:
            self.look_ahead += 1  # accelerate takes one more, to know which is the last
        self._place = splitter.process_index, splitter.num_processes
        self._splitter = splitter
        return self

    def _open(self) -> TrainedLog:
        share = own_share(*self._place, accumulation=self.accumulation)
        held = self.accumulation - 1 if self._skip_unreadable else 0
        read_ahead = read_ahead_batches(
            self._workers.items_ahead + self.look_ahead + held, accumulation=self.accumulation
        )
        log = self._open_log(state=self._state, read_ahead=read_ahead)
        name = self._name if share.rank == 0 else None
        if name is not None:
            log.register(
                name,
                world_size=share.world_size,
                accumulation=share.accumulation,
                checkpoint_every=self._checkpoint_every,
                ttl_s=self._ttl_s,
                rewind=self._state is not None if self._rewind is None else self._rewind,
            )
        return TrainedLog(log, share=share, reports=name is not None)

    def _dataloader(self) -> Iterable[Item]:
        if self._items is None or self._style == "iterable":  # an iterable one begins where the training stands
            self._items = self._map_loader() if self._style == "map" else self._iterable_loader()
        return self._items

    def _map_loader(self) -> Iterable[Item]:
        trained_log = self.trained_log
        sampler = CuratedBatchSampler(
            trained_log.window,
            share=trained_log.share,
            b=self.log.manifest().policy.b,
            whole=self._splitter is not None,
        )
        loader = self._workers.map_loader(self._dataset(), sampler, self._collate())
        return loader if self._splitter is None else self._splitter.prepare_data_loader(loader)

    def _iterable_loader(self) -> Iterable[Item]:
        open_log = partial(_open_at, self._open_log)
        share, state = self.trained_log.share, self.trained_log.state()
        dataset = CuratedIterableDataset(open_log, self._dataset(), self._collate(), share=share, state=state)
        return self._workers.iterable_loader(dataset)

    def _dataset(self) -> ExampleDataset:
        table = self.log.shard_table()
        is_told = {shard.root for shard in table.shards} <= set(self._roots)  # a log below a prefix knows no roots
        return ExampleDataset(
            self._reader(self._roots if is_told else {**self.log.roots(), **self._roots}),
            table,
            self._transform,
            share=self.trained_log.share,
            marks_unreadable=self._skip_unreadable > 0,
        )

    def _collate(self) -> CuratedCollate:
        num_variants = max(1, len(self.log.manifest().policy.variants)) if self._split_variants else None
        return CuratedCollate(self._collate_fn, num_variants=num_variants)


def _open_at(open_log: OpenLog, state: LogState) -> BatchLog:
    return open_log(state=state, read_ahead=0)
