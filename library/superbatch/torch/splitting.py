"""accelerate: how it cuts batches, and that its optimizer steps are the joint batches."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any, Protocol

from torch.utils.data import DataLoader

from superbatch.formats.errors import InvalidInput
from superbatch.torch.agreement import check_started
from superbatch.torch.readable import Item
from superbatch.torch.rows import BatchSlice


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


class GradientState(Protocol):
    """accelerate's settings of gradient accumulation."""

    plugin_kwargs: MutableMapping[str, Any]
    """Those of its GradientAccumulationPlugin."""


class Stepper(Splitter, Protocol):
    """A Splitter that also decides which micro-step ends with an optimizer step, by `accumulate`."""

    step: int
    """Micro-steps so far; load_state restores it."""

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-steps per optimizer step."""
        ...

    @property
    def sync_gradients(self) -> bool:
        """Whether the last micro-step ended with an optimizer step."""
        ...

    @property
    def gradient_state(self) -> GradientState:
        """Its settings."""
        ...


def check_splits(splitter: Splitter, *, style: str) -> None:
    """Refuse a framework under which ranks would not get the parts of the same batches.

    Raises:
        InvalidInput: it would give whole batches to single ranks, read on one rank alone, or leave each process alone.
    """
    check_started(
        splitter.num_processes, "On CPUs use Accelerator(cpu=True), with HF Trainer TrainingArguments(use_cpu=True)."
    )
    if splitter.num_processes > 1 and not splitter.split_batches:
        raise InvalidInput(
            "accelerate must split every batch over its processes, else ranks get different batches; got "
            f"split_batches=False with {splitter.num_processes} processes. "
            "Use Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=True)), with HF Trainer "
            'TrainingArguments(accelerator_config={"split_batches": True}).'
        )
    if style != "map" or splitter.dispatch_batches:
        raise InvalidInput(
            "accelerate splits batches that every rank asks for itself; got style "
            f"{style!r}, dispatch_batches={splitter.dispatch_batches}. "
            'Use style="map" and leave dispatch_batches off.'
        )


class JointSteps:
    """Keeps the optimizer steps of accelerate in step with the joint batches.

    Args:
        stepper: the Accelerator.
        accumulation: micro-steps per batch.
    Raises:
        InvalidInput: accelerate counts another number of them.
    """

    def __init__(self, stepper: Stepper, *, accumulation: int) -> None:
        if stepper.gradient_accumulation_steps != accumulation:
            raise InvalidInput(
                "an optimizer step must be one batch; got gradient_accumulation_steps="
                f"{stepper.gradient_accumulation_steps} with accumulation={accumulation}. Give both the same."
            )
        self._stepper = stepper
        self._accumulation = accumulation

    def align(self) -> None:
        """Begin a batch with the next micro-step, wherever a checkpoint was saved and with whatever accumulation.

        accelerate must also not step because a DataLoader ends: one that holds a batch back until all ranks have read
        it ends while the first micro-step is trained.
        """
        self._stepper.step -= self._stepper.step % self._accumulation
        self._stepper.gradient_state.plugin_kwargs["sync_with_dataloader"] = False

    def check(self, trained: BatchSlice) -> None:
        """Refuse a micro-step whose optimizer step is not that of the batch.

        Raises:
            InvalidInput: a step inside a batch, or none at its end.
        """
        is_last = trained.micro == self._accumulation - 1
        if self._stepper.sync_gradients != is_last:
            raise InvalidInput(
                "an optimizer step must be one batch; got "
                f"{'none at the end of' if is_last else 'one inside'} batch {trained.seq}, after micro-step "
                f"{trained.micro} of {self._accumulation}. Train each micro-step inside one `with "
                "accelerator.accumulate(model)`, call trained() after it, and do not change accelerator.step."
            )
