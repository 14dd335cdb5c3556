"""Builds open_clip's training set so that each loader batch is one tar, in the order of the tars."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from superbatch.conformance import Trace
from superbatch.formats.errors import InvalidInput
from superbatch.openclip.observed_loader import ObservedLoader, Observer, TraceWriter, UidWebdataset
from superbatch.openclip.plan import ReadingPlan, reading_plan
from superbatch.openclip.stages import EpochTars, NotingUids, WholeTars, end_the_run

SHUFFLE_SIZES = ("_SHARD_SHUFFLE_SIZE", "_SHARD_SHUFFLE_INITIAL", "_SAMPLE_SHUFFLE_SIZE", "_SAMPLE_SHUFFLE_INITIAL")
"""open_clip's constants; with 1 each, its buffers hold one element, and nothing changes places."""

REPLACED = (*SHUFFLE_SIZES, "detshuffle2", "tarfile_to_samples_nothrow", "log_and_continue")
NEEDED = (*REPLACED, "wds", "get_wds_dataset", "filter_no_caption_or_no_image", "expand_urls", "get_dataset_size")


MakeReports = Callable[[ReadingPlan, Any, int], Observer]


class TrainingSet:
    """Takes the place of open_clip's `get_wds_dataset`; validation sets go to open_clip's own, unchanged.

    Args:
        data: the module open_clip_train.data.
        keep_order: False changes nothing, so that a trace shows what open_clip does by itself.
        trace: where trained rows are noted; without a folder nothing is noted.
        report: makes what reports progress, from the plan, open_clip's arguments and the first epoch; None: nothing is
            reported.
    Raises:
        InvalidInput: an open_clip whose training set is built in another way.
    """

    def __init__(self, data: ModuleType, *, keep_order: bool, trace: Trace, report: MakeReports | None = None) -> None:
        missing = [name for name in NEEDED if not hasattr(data, name)]
        if missing:
            raise InvalidInput(
                f"superbatch.openclip is made for open_clip_torch 3.3; this one has no {', '.join(missing)} "
                f"({data.__name__}). Install open_clip_torch==3.3.0."
            )
        self._data, self._keep_order, self._trace, self._report = data, keep_order, trace, report
        self._stock = data.get_wds_dataset

    def __call__(self, args: Any, preprocess_img: Any, is_train: bool, **options: Any) -> Any:
        """Return what open_clip's `get_wds_dataset` returns."""
        if not is_train or not (self._keep_order or self._trace.folder):
            return self._stock(args, preprocess_img, is_train, **options)
        plan = self._plan(args)
        replaced = self._in_order(plan) if self._keep_order else {}
        if self._trace.folder is not None:
            replaced |= self._traced()
        with _replaced(self._data, replaced):
            found = self._stock(args, preprocess_img, is_train, **options)
        if observers := self._observers(plan, args, found.shared_epoch.get_value()):
            found.dataloader = ObservedLoader(
                found.dataloader, plan=plan, epoch=found.shared_epoch, observers=observers
            )
        return found

    def _observers(self, plan: ReadingPlan, args: Any, epoch: int) -> list[Observer]:
        observers: list[Observer] = []
        if self._report is not None and args.rank == 0:
            observers.append(self._report(plan, args, epoch))
        if self._trace.folder is not None:
            observers.append(TraceWriter(self._trace, plan.accumulation))
        return observers

    def _plan(self, args: Any) -> ReadingPlan:
        urls, _ = self._data.expand_urls(args.train_data)
        num_samples = args.train_num_samples or self._data.get_dataset_size(args.train_data)[0]
        if not num_samples:
            raise InvalidInput("the rows of an epoch must be known; got none. Give --train-num-samples.")
        plan = reading_plan(args, urls, num_samples=num_samples)
        if plan.is_repeated and args.epochs > 1 and args.rank == 0:
            logging.warning("Each of the %d epochs trains the same %d batches.", args.epochs, plan.steps_per_epoch)
        return plan

    def _in_order(self, plan: ReadingPlan) -> dict[str, object]:
        return {
            **dict.fromkeys(SHUFFLE_SIZES, 1),
            "detshuffle2": lambda *, epoch, **_: EpochTars(plan, epoch),
            "tarfile_to_samples_nothrow": WholeTars(self._data.tarfile_to_samples_nothrow, plan.rows_per_tar),
            "log_and_continue": end_the_run,
        }

    def _traced(self) -> dict[str, object]:
        return {
            "wds": UidWebdataset(self._data.wds),
            "filter_no_caption_or_no_image": NotingUids(self._data.filter_no_caption_or_no_image),
        }


@contextmanager
def _replaced(module: ModuleType, values: Mapping[str, object]) -> Iterator[None]:
    """Set names of a module for a while."""
    before = {name: getattr(module, name) for name in values}
    try:
        for name, value in values.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
