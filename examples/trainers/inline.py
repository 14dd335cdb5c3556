"""Joint selection inside the trainer: the tiny encoder on the committed sample, no service anywhere.

    python examples/trainers/inline.py --out /tmp/inline --steps 60

A plain PyTorch loop over a pool that it holds itself. What makes it select is marked (1) to (4): a reference model
embeds the pool once, and in each step the learner embeds a super-batch and trains on the most learnable part of it.
The reference here is the same small encoder, trained at the start on the sample's clean pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from superbatch.formats.schedule import super_batch_size
from superbatch.formats.tar import iter_samples
from superbatch.formats.uid import uid_of_bytes
from superbatch.inline import CachePart, DualEmbeddings, ReferenceCache, select_batch
from superbatch.selection.cost.products import selection_flops
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.flops import forward_flops_per_example
from superbatch.tiny.loss import sigmoid_loss
from superbatch.tiny.model import TinyDualEncoder, initial_model
from superbatch.tiny.picture import BadRow, open_picture, read_caption
from superbatch.tiny.preprocess import picture_to_pixels
from superbatch.tiny.tokenizer import train_tokenizer

SAMPLE = Path(__file__).parents[1] / "sample" / "data"


class Pairs:
    """Decoded pairs in memory: pixels, captions, uids. Rows that cannot be decoded are left out, and counted."""

    def __init__(self, tars: Iterable[Path], *, size: int) -> None:
        """Read all pairs of some tars."""
        pixels: list[Tensor] = []
        self.captions: list[str] = []
        self.uids: list[bytes] = []
        self.num_left_out = 0
        for path in sorted(tars):
            with path.open("rb") as stream:
                for sample in iter_samples(stream, read=True, where=str(path)):
                    picture, caption = sample.data.get("png", b""), sample.data.get("txt", b"")
                    try:
                        self.captions.append(read_caption(caption))
                        pixels.append(torch.from_numpy(picture_to_pixels(open_picture(picture), size=size)))
                        self.uids.append(uid_of_bytes(picture, caption))
                    except BadRow:
                        self.num_left_out += 1
                        del self.captions[len(pixels) :]
        self.pixels = torch.stack(pixels)
        self.tokens = torch.empty(0)

    def __len__(self) -> int:
        return len(self.uids)


class Run:
    """A model, its optimizer and what both have done so far."""

    def __init__(self, config: TinyConfig, *, seed: int, lr: float, warmup: int = 20) -> None:
        """Start at step 0."""
        self.model = initial_model(config, seed=seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
        self.lr, self.warmup = lr, warmup
        self.losses: list[float] = []
        self.examples_trained = 0
        self.examples_loaded = 0

    def step(self, pixels_bCHW: Tensor, tokens_bT: Tensor) -> None:
        """Train on one batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, (len(self.losses) + 1) / self.warmup)
        image_bD, text_bD = self.model(pixels_bCHW, tokens_bT)
        loss = sigmoid_loss(image_bD, text_bD, self.model.logit_scale, self.model.logit_bias)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.losses.append(loss.item())
        self.examples_trained += len(pixels_bCHW)


@torch.no_grad()
def embeddings_of(model: TinyDualEncoder, pixels_BCHW: Tensor, tokens_BT: Tensor) -> DualEmbeddings:
    """Return both towers' embeddings under the current weights, with the model's logit scale and bias."""
    image_BD, text_BD = model(pixels_BCHW, tokens_BT)
    return DualEmbeddings(image_BD, text_BD, model.logit_scale.item(), model.logit_bias.item())


def train_reference(pairs: Pairs, config: TinyConfig, *, steps: int, batch: int, lr: float) -> TinyDualEncoder:
    """Train the reference on clean pairs, in batches drawn at random."""
    run, chance = Run(config, seed=2, lr=lr), np.random.default_rng(2)
    for _ in range(steps):
        rows = chance.choice(len(pairs), min(batch, len(pairs)), replace=False)
        run.step(pairs.pixels[rows], pairs.tokens[rows])
    return run.model.eval()


def reference_cache(folder: Path, pool: Pairs, reference: TinyDualEncoder) -> ReferenceCache:
    """(1) Embed the pool once with the reference, in parts."""
    found = [
        embeddings_of(reference, *part) for part in zip(pool.pixels.split(512), pool.tokens.split(512), strict=True)
    ]
    parts = [
        CachePart(pool.uids[512 * number :][: len(part.image)], part.image, part.text)
        for number, part in enumerate(found)
    ]
    return ReferenceCache.build(
        folder, parts, logit_scale=found[0].logit_scale, logit_bias=found[0].logit_bias, source="tiny"
    )


def train(run: Run, pool: Pairs, cache: ReferenceCache, *, steps: int, b: int, f: float, seed: int) -> None:
    """Train on the most learnable b of B = b / (1 - f) rows, in every step."""
    B, chance = super_batch_size(b, f), np.random.default_rng(seed)
    while len(run.losses) < steps:
        rows = chance.choice(len(pool), B, replace=False)
        pixels, tokens, uids = pool.pixels[rows], pool.tokens[rows], [pool.uids[row] for row in rows]
        run.examples_loaded += len(rows)
        learner = embeddings_of(run.model, pixels, tokens)  # (2) the cost of selection: a forward of B rows
        reference = cache.take(uids)  # (3) what the reference said of them
        chosen = select_batch(learner, reference, b=b, seed=seed, seq=len(run.losses), uids=uids)  # (4)
        run.step(pixels[chosen], tokens[chosen])


def metrics(run: Run, pool: Pairs, *, b: int, f: float, N: int, seconds: float) -> dict[str, object]:
    """Return what the run cost. A step of training costs three forwards of b rows, scoring one forward of B."""
    B, steps, forward = super_batch_size(b, f), len(run.losses), forward_flops_per_example(run.model.config)
    training, scoring = 3 * forward * run.examples_trained, forward * run.examples_loaded
    width = run.model.config.width
    selecting = selection_flops(B=B, b=b, N=N, widths=[width, width]) * steps
    return {
        "steps": steps,
        "examples_trained": run.examples_trained,
        "examples_loaded": run.examples_loaded,
        "pool_rows": len(pool),
        "rows_left_out": pool.num_left_out,
        "training_flops": training,
        "scoring_flops": scoring,
        "selection_flops": selecting,
        "reference_flops_once": forward * len(pool),
        "cost_of_a_step_in_uniform_steps": (training + scoring) / training,
        "seconds": seconds,
        "losses": run.losses,
    }


def held_out_loss(model: TinyDualEncoder, pairs: Pairs, *, b: int) -> float:
    """Return the mean loss of the held-out pairs in batches of b, the rest left out."""
    losses = [
        sigmoid_loss(*_towers(model, pixels, tokens), model.logit_scale, model.logit_bias).item()
        for pixels, tokens in zip(pairs.pixels.split(b), pairs.tokens.split(b), strict=True)
        if len(pixels) == b
    ]
    return sum(losses) / len(losses)


@torch.no_grad()
def _towers(model: TinyDualEncoder, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    image, text = model(pixels, tokens)
    return image, text


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the tiny encoder with joint selection in the trainer.")
    add = parser.add_argument
    add("--data", type=Path, default=SAMPLE, help="folder with clean-*.tar, pool-*.tar and test-*.tar")
    add("--out", type=Path, required=True, help="folder for metrics.json and the reference cache; must be new")
    add("--steps", type=int, default=100)
    add("--batch", type=int, default=128, help="b")
    add("--filter-ratio", type=float, default=0.8, help="f, the share of each super-batch that is not trained")
    add("--reference-steps", type=int, default=150, help="steps in which the reference learns the clean pairs")
    add("--lr", type=float, default=6e-3)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train a reference, embed the pool with it, train the learner, and write what it cost."""
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    config = TinyConfig()
    clean, pool, test = (
        Pairs(args.data.glob(f"{split}-*.tar"), size=config.image_size) for split in ("clean", "pool", "test")
    )
    tokenizer = train_tokenizer(clean.captions, vocab_size=config.vocab_size)
    for pairs in (clean, pool, test):
        pairs.tokens = torch.from_numpy(tokenizer.encode(pairs.captions, context_length=config.context_length))
    args.out.mkdir(parents=True, exist_ok=True)
    reference = train_reference(clean, config, steps=args.reference_steps, batch=args.batch, lr=args.lr)
    cache = reference_cache(args.out / "reference-cache", pool, reference)
    run, began_s = Run(config, seed=1, lr=args.lr), time.monotonic()
    train(run, pool, cache, steps=args.steps, b=args.batch, f=args.filter_ratio, seed=args.seed)
    N = min(16, args.batch)
    found = metrics(run, pool, b=args.batch, f=args.filter_ratio, N=N, seconds=time.monotonic() - began_s)
    found |= {"held_out_loss": held_out_loss(run.model, test, b=args.batch)}
    (args.out / "metrics.json").write_text(json.dumps(found, indent=2) + "\n")
    shown = {name: value for name, value in found.items() if name != "losses"}
    print(json.dumps(shown, indent=2), file=sys.stderr)


if __name__ == "__main__":
    main()
