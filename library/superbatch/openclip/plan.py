"""What open_clip is about to read, from its own arguments: refused where a joint batch could not stay whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from superbatch.formats.errors import InvalidInput
from superbatch.webdataset.layout import tar_index_of


class TrainingArguments(Protocol):
    """The arguments of open_clip's trainer that say what is read; its own names."""

    batch_size: int
    world_size: int
    accum_freq: int
    workers: int
    epochs: int
    train_num_samples: int | None
    dataset_resampled: bool


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """Which tars an epoch reads.

    first_tar: index of the first tar of the list. num_tars: length of the list.
    rows_per_tar: the batch size per GPU. world_size, accumulation: R, A.
    steps_per_epoch: loader batches that each rank takes in an epoch.
    """

    first_tar: int
    num_tars: int
    rows_per_tar: int
    world_size: int
    accumulation: int
    steps_per_epoch: int

    @property
    def tars_per_epoch(self) -> int:
        """One tar per rank and loader batch."""
        return self.steps_per_epoch * self.world_size

    @property
    def is_repeated(self) -> bool:
        """Claim that the list holds the tars of one epoch, which every epoch reads again."""
        return self.num_tars == self.tars_per_epoch

    def tars_of_epoch(self, epoch: int) -> range:
        """Return the positions in the list of the tars of an epoch, counted from 0."""
        start = 0 if self.is_repeated else epoch * self.tars_per_epoch
        return range(start, start + self.tars_per_epoch)

    def batch_of(self, epoch: int, step: int) -> tuple[int, int]:
        """Return (seq, micro) of what every rank takes as its loader batch `step` of an epoch."""
        first_step = (self.first_tar + self.tars_of_epoch(epoch).start) // self.world_size
        return divmod(first_step + step, self.accumulation)


def reading_plan(arguments: TrainingArguments, urls: Sequence[str], *, num_samples: int) -> ReadingPlan:
    """Return the plan of a training run, or refuse it with the numbers to change.

    Args:
        arguments: as open_clip parsed them.
        urls: the tars of --train-data, expanded.
        num_samples: rows per epoch: --train-num-samples, or what sizes.json beside the tars says.
    Raises:
        InvalidInput: tars drawn with replacement; tars that are not consecutive, or do not begin with a whole batch;
            rows per epoch that are no whole number of batches; batches that the workers cannot share equally; fewer
            tars than the epochs need.
    """
    if arguments.dataset_resampled:
        raise InvalidInput(
            "--dataset-resampled draws tars at random, so no joint batch would stay whole. Leave it out."
        )
    per_step = arguments.batch_size * arguments.world_size
    steps, rest = divmod(num_samples, per_step)
    num_workers = max(1, arguments.workers)
    if rest or steps < 1:
        raise InvalidInput(
            f"--train-num-samples (rows per epoch) must be a multiple of batch size * ranks = {arguments.batch_size} * "
            f"{arguments.world_size} = {per_step}; got {num_samples}. open_clip would repeat rows to fill up: use "
            f"{max(1, steps) * per_step}."
        )
    for flag, share in (("--workers", num_workers), ("--accum-freq", arguments.accum_freq)):
        if steps % share:
            raise InvalidInput(
                f"the steps of an epoch must be a multiple of {flag}; got {steps} steps and {share}. open_clip would "
                f"repeat or leave out batches: use a divisor of {steps}, or --train-num-samples "
                f"{max(1, steps // share) * share * per_step}."
            )
    first_tar = _consecutive(urls)
    if first_tar % (arguments.world_size * arguments.accum_freq):
        raise InvalidInput(
            f"--train-data must begin with the first tar of a batch, a multiple of ranks * --accum-freq = "
            f"{arguments.world_size} * {arguments.accum_freq}; got tar {first_tar}. Export with the same world size."
        )
    plan = ReadingPlan(first_tar, len(urls), arguments.batch_size, arguments.world_size, arguments.accum_freq, steps)
    wanted = plan.tars_per_epoch * arguments.epochs
    if not plan.is_repeated and len(urls) < wanted:
        raise InvalidInput(
            f"--train-data must have one tar per rank and step: {plan.tars_per_epoch} to read the same batches in "
            f"every epoch, or {wanted} for {arguments.epochs} epochs; got {len(urls)}. Export more batches, or set "
            "--train-num-samples to the rows of one epoch."
        )
    return plan


def _consecutive(urls: Sequence[str]) -> int:
    """Return the index of the first of tars whose indices follow each other."""
    indices = [tar_index_of(url) for url in urls]
    for position, index in enumerate(indices):
        if index != indices[0] + position:
            raise InvalidInput(
                f"the tars of --train-data must follow each other; got tar {index} where {indices[0] + position} "
                "belongs. Name them as {00000000..00000047}.tar."
            )
    return indices[0]
