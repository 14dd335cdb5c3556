"""HF Trainer: a Trainer whose training batches are those of a curated loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from superbatch.formats.errors import InvalidInput
from superbatch.torch.collate import slice_of
from superbatch.torch.loader import CuratedLoader
from superbatch.torch.rows import SLICE_KEY, BatchSlice


class CuratedTrainer(Trainer):
    """A transformers Trainer that trains on the batches of a job, in order, and resumes at the saved one.

    TrainingArguments must have accelerator_config={"split_batches": True}, ignore_data_skip=True, max_steps,
    and gradient_accumulation_steps equal to the loader's accumulation. The state of
    the log is kept in trainer_state.json. Training stops at max_steps, or at the end of the log if that comes first.

    Args:
        curated: the loader of the training batches; the model is called with the keys of its samples.
        kwargs: as for Trainer.
    Raises:
        InvalidInput: arguments or devices under which batches would be skipped, split or joined in another way.
    """

    def __init__(self, *, curated: CuratedLoader, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check(self.args, curated)
        self.curated = curated.split_by(self.accelerator)
        self.curated.takes_ahead("HF Trainer", curated.accumulation)  # those of a step are taken before it begins
        self._in_step: list[BatchSlice] = []
        self.add_callback(CurationState(curated, self._step_ended))

    def get_train_dataloader(self) -> CuratedLoader:  # type: ignore[override] # only iterated over
        """Return the curated loader."""
        return self.curated

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Train a micro-step; what it holds is taken out of the inputs of the model."""
        self._in_step.append(slice_of(inputs))
        del inputs[SLICE_KEY]
        return super().training_step(model, inputs, num_items_in_batch)

    def _one_batch(self) -> list[tuple[int, int]]:
        return [(held.seq, micro) for held in self._in_step[:1] for micro in range(self.curated.accumulation)]

    def on_trained(self, held: BatchSlice) -> None:
        """Called after each trained micro-step of an optimizer step, once the step is made; does nothing here."""

    def _step_ended(self) -> None:
        if [(held.seq, held.micro) for held in self._in_step] != self._one_batch():
            raise InvalidInput(
                f"an optimizer step must be one batch; got one of {self._in_step} with accumulation="
                f"{self.curated.accumulation}. Leave gradient_accumulation_steps and the training loop as they are."
            )
        for held in self._in_step:
            self.curated.trained(held)
            self.on_trained(held)
        self._in_step.clear()


class CurationState(TrainerCallback, ExportableState):
    """Tells a curated loader what was trained and saved, and keeps its state in trainer_state.json.

    Args:
        curated: the loader.
        on_step_end: called when an optimizer step is made.
    """

    def __init__(self, curated: CuratedLoader, on_step_end: Callable[[], None]) -> None:
        self._curated = curated
        self._step_ended = on_step_end
        self._begun = False

    def state(self) -> dict[str, object]:
        """Return what goes into trainer_state.json: the loader's state once training has begun."""
        return {"args": {}, "attributes": {"log_state": self._curated.state_dict() if self._begun else None}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Begin where the checkpoint stands that the trainer resumes from; one without curation begins with the log."""
        callbacks = cast("dict[str, Mapping[str, Mapping[str, Any]]]", state.stateful_callbacks)
        own = callbacks.setdefault(type(self).__name__, {"args": {}, "attributes": {}})  # the Trainer saves only these
        saved = own["attributes"].get("log_state")
        if saved is not None:
            self._curated.load_state_dict(saved)
        self._begun = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Note the micro-steps of an optimizer step; stop at the end of the log."""
        self._step_ended()
        control.should_training_stop |= self._curated.is_finished

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Report the checkpoint that was written."""
        self._curated.saved(self._curated.state_dict())


def _check(args: TrainingArguments, curated: CuratedLoader) -> None:
    if args.n_gpu > 1:
        raise InvalidInput(
            f"each process trains on one device; got n_gpu={args.n_gpu}, over which the Trainer would deal every batch "
            "again (DataParallel). Start it with torchrun --nproc-per-node, or show it one device by "
            "CUDA_VISIBLE_DEVICES."
        )
    if not args.ignore_data_skip:
        raise InvalidInput(
            "a curated loader resumes by its own state; got ignore_data_skip=False, under which the Trainer would "
            "skip the same batches once more. Set ignore_data_skip=True."
        )
    if args.gradient_accumulation_steps != curated.accumulation:
        raise InvalidInput(
            f"an optimizer step must be one batch; got gradient_accumulation_steps={args.gradient_accumulation_steps} "
            f"with accumulation={curated.accumulation}. Give both the same."
        )
    if args.max_steps <= 0:
        raise InvalidInput(
            f"the length of a log is not known in advance; got max_steps={args.max_steps}. Set max_steps to the number "
            "of batches to train."
        )
