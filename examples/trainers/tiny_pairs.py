"""What the trainer recipes share: the tiny dual encoder with its loss, how a row becomes tensors, and where the job is.

Replace it with your own model and preprocessing. Nothing here knows of batches, ranks or positions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, distributed, nn

from superbatch.conformance import Trace
from superbatch.log import BatchLog
from superbatch.reading import Example
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.loss import sigmoid_loss
from superbatch.tiny.model import initial_model
from superbatch.tiny.picture import open_picture, read_caption
from superbatch.tiny.preprocess import picture_to_pixels
from superbatch.tiny.tokenizer import train_tokenizer
from superbatch.torch import BatchSlice, CuratedLoader, Workers
from superbatch.torch.collate import slice_of

CONFIG = TinyConfig(image_size=16, image_channels=(16, 32), vocab_size=300, text_width=32, width=32)


class TinyContrast(nn.Module):
    """The tiny dual encoder as a module whose forward returns the loss of the joint batch."""

    def __init__(self) -> None:
        """Begin with the same weights on every rank."""
        super().__init__()
        self.encoder = initial_model(CONFIG, seed=1)

    def forward(self, pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Return {"loss": ...} over the rows of all ranks: the whole batch, or the whole micro-step."""
        image_BD, text_BD = self.encoder(pixels, tokens)
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            image_BD, text_BD = OfAllRanks.apply(image_BD), OfAllRanks.apply(text_BD)
        return {"loss": sigmoid_loss(image_BD, text_BD, self.encoder.logit_scale, self.encoder.logit_bias)}


class OfAllRanks(torch.autograd.Function):
    """Joins the rows of all ranks; each rank gets the gradient of its own rows, summed over the losses of all ranks."""

    @staticmethod
    def forward(_: object, own_nD: Tensor) -> Tensor:
        """Return the rows of rank 0, then of rank 1, and so on."""
        parts = [torch.empty_like(own_nD) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, own_nD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_: object, gradient_BD: Tensor) -> Tensor:
        """Return the gradient of this rank's rows."""
        gradient_BD = gradient_BD.contiguous()
        distributed.all_reduce(gradient_BD)
        return gradient_BD.chunk(distributed.get_world_size())[distributed.get_rank()]


class ToTensors:
    """Turns an Example into named tensors; a class, so that spawned workers can receive it."""

    def __init__(self) -> None:
        """Learn nothing: the tokenizer spells captions in bytes."""
        self._tokenizer = train_tokenizer([], vocab_size=CONFIG.vocab_size)

    def __call__(self, example: Example) -> dict[str, Tensor]:
        """Return the pixels and tokens of one pair."""
        pixels = picture_to_pixels(open_picture(example.a), size=CONFIG.image_size)
        tokens = self._tokenizer.encode([read_caption(example.b)], context_length=CONFIG.context_length)
        return {"pixels": torch.from_numpy(pixels), "tokens": torch.from_numpy(tokens[0])}


def open_loader(trace: Trace, **options: object) -> CuratedLoader:
    """Return the loader of the job that the environment names, at the saved state if there is one.

    In your own trainer this is the call of CuratedLoader with your address, job, token, transform and name. With
    SUPERBATCH_REWIND=1 it goes back to the start of a job that was trained before.
    """
    assert trace.url is not None, "set SUPERBATCH_URL, SUPERBATCH_JOB and SUPERBATCH_TOKEN"
    assert trace.job is not None
    loader = CuratedLoader(
        partial(BatchLog, trace.url, trace.job, token=trace.token),
        ToTensors(),
        name="recipe",
        rewind=True if os.environ.get("SUPERBATCH_REWIND") == "1" else None,
        accumulation=trace.accumulation,
        workers=Workers(num_workers=trace.num_workers),
        **options,  # type: ignore[arg-type]
    )
    if (state := trace.state()) is not None:
        loader.load_state_dict(state)
    return loader


def record(trace: Trace, loader: CuratedLoader, batch: Mapping[str, object] | BatchSlice) -> None:
    """Write what was trained for the conformance kit, and save the state where a checkpoint would be saved.

    Without SUPERBATCH_TRACE and SUPERBATCH_STATE it does nothing. Call it after `loader.trained(batch)`.
    """
    held = slice_of(batch)
    trace.step(held.seq, held.uids, micro=held.micro if trace.accumulation > 1 else None)
    if held.micro == trace.accumulation - 1:
        state = loader.state_dict()  # beside it, your checkpoint keeps the model and the optimizer
        trace.save_state(state)
        loader.saved(state)
