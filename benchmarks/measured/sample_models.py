"""The sample's pool under two small encoders trained here: a young learner, and a reference of the clean split.

Letters: B rows, C channels, H rows and W columns of a picture, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from superbatch.formats.tar import iter_samples
from superbatch.formats.uid import uid_of_bytes
from superbatch.selection import Candidates, DualEmbeddings
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.model import TinyDualEncoder, initial_model
from superbatch.tiny.picture import BadRow, open_picture, read_caption
from superbatch.tiny.preprocess import picture_to_pixels
from superbatch.tiny.tokenizer import TinyTokenizer, train_tokenizer

SAMPLE = Path(__file__).parents[2] / "examples" / "sample" / "data"
_ROWS_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class Pairs:
    """Decoded pairs of one split of the sample."""

    uid: np.ndarray
    pixels: torch.Tensor
    tokens: torch.Tensor


def sample_candidates(*, learner_steps: int, reference_steps: int) -> Candidates:
    """Return the pool of the sample, embedded by a learner trained on it and a reference trained on the clean split.

    Both train with the softmax loss on uniform batches, from different seeds. Cost: some 25 ms a step on two cores.
    """
    config = TinyConfig()
    captions = [caption for split in ("clean", "pool") for _, caption in _stored(split)]
    tokenizer = train_tokenizer(iter(captions), vocab_size=config.vocab_size)
    clean, pool = (_pairs(split, tokenizer, config) for split in ("clean", "pool"))
    learner = _trained(pool, config, num_steps=learner_steps, seed=1)
    reference = _trained(clean, config, num_steps=reference_steps, seed=2)
    return Candidates(
        uid=pool.uid,
        dataset_index=np.arange(len(pool.uid), dtype=np.int64),
        learner=_embedded(learner, pool),
        reference=_embedded(reference, pool),
    )


def _stored(split: str) -> Iterator[tuple[bytes, str]]:
    for path in sorted(SAMPLE.glob(f"{split}-*.tar")):
        with path.open("rb") as stream:
            for sample in iter_samples(stream, read=True, suffixes=("png", "txt"), where=str(path)):
                try:
                    yield sample.data.get("png") or b"", read_caption(sample.data.get("txt"))
                except BadRow:
                    continue


def _pairs(split: str, tokenizer: TinyTokenizer, config: TinyConfig) -> Pairs:
    uids, pixels, captions = [], [], []
    for picture, caption in _stored(split):
        try:
            pixels.append(picture_to_pixels(open_picture(picture), size=config.image_size))
        except BadRow:
            continue
        uids.append(uid_of_bytes(picture, caption.encode()))
        captions.append(caption)
    uid_B16 = np.frombuffer(b"".join(uids), dtype=np.uint8).reshape(-1, 16)
    tokens_BT = tokenizer.encode(captions, context_length=config.context_length)
    return Pairs(uid_B16, torch.from_numpy(np.stack(pixels)), torch.from_numpy(tokens_BT))


def _trained(pairs: Pairs, config: TinyConfig, *, num_steps: int, seed: int) -> TinyDualEncoder:
    model = initial_model(config, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05)
    rng = np.random.default_rng(seed)
    for _ in range(num_steps):
        rows_B = torch.from_numpy(rng.choice(len(pairs.uid), 256, replace=False))
        image_BD, text_BD = model(pairs.pixels[rows_B], pairs.tokens[rows_B])
        logits_BB = image_BD @ text_BD.T * model.logit_scale
        own_B = torch.arange(len(rows_B))
        loss = (cross_entropy(logits_BB, own_B) + cross_entropy(logits_BB.T, own_B)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@torch.no_grad()
def _embedded(model: TinyDualEncoder, pairs: Pairs) -> DualEmbeddings:
    blocks = zip(pairs.pixels.split(_ROWS_AT_ONCE), pairs.tokens.split(_ROWS_AT_ONCE), strict=True)
    towers = [torch.cat(parts) for parts in zip(*(model(*block) for block in blocks), strict=True)]
    return DualEmbeddings(towers[0], towers[1], float(model.logit_scale), 0.0)
