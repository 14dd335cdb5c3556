"""Train a small dual encoder on the batches of a Superbatch job. Copy this file and put your own model in.

    python examples/train_tiny.py --url http://127.0.0.1:8000 --job JOB --token-file TOKEN --init-model DIR --out RUN

A plain PyTorch loop. What makes it a Superbatch trainer is marked (1) to (5); model, loss and optimizer know nothing
of it. With --resume the same command goes on from the last saved state, batch for batch and bit for bit.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from hashlib import sha256
from pathlib import Path

import torch

from superbatch.log import BatchLog, LogState
from superbatch.reading import Example, ExampleReader
from superbatch.tiny.flops import forward_flops_per_example
from superbatch.tiny.loss import sigmoid_loss
from superbatch.tiny.model import TinyDualEncoder, initial_model
from superbatch.tiny.picture import open_picture, read_caption
from superbatch.tiny.preprocess import picture_to_pixels
from superbatch.tiny.tokenizer import TinyTokenizer
from superbatch.tiny.weights import load_settings, save_model, weights_to_bytes


class Run:
    """Everything that a step changes, so that all of it can be saved: model, its moving average, optimizer, counts."""

    def __init__(self, model: TinyDualEncoder, *, lr: float, warmup: int, ema: float) -> None:
        """Start a run at step 0."""
        self.model, self.average = model, copy.deepcopy(model)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
        self.lr, self.warmup, self.ema = lr, warmup, ema
        self.losses: list[float] = []
        self.counts = {"examples_trained": 0, "examples_loaded": 0, "generations": 0, "max_staleness": 0}
        self.seconds = {"total": 0.0, "waiting": 0.0}

    def step(self, pixels_BCHW: torch.Tensor, tokens_BT: torch.Tensor) -> None:
        """Train on one batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, (len(self.losses) + 1) / self.warmup)
        image_BD, text_BD = self.model(pixels_BCHW, tokens_BT)
        loss = sigmoid_loss(image_BD, text_BD, self.model.logit_scale, self.model.logit_bias)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        keep = min(self.ema, (1 + len(self.losses)) / (10 + len(self.losses)))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
                slow.lerp_(fast, 1.0 - keep)
        self.losses.append(loss.item())

    def save(self, path: Path, log_state: LogState) -> None:
        """Save the run and its place in the log; a crash while saving leaves the state before."""
        saved = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimizer")}
        saved |= {"losses": self.losses, "counts": self.counts, "seconds": self.seconds, "log": dict(log_state)}
        with path.with_suffix(".tmp").open("wb") as file:
            torch.save(saved, file)
            file.flush()
            os.fsync(file.fileno())  # what is reported as durable must survive the machine
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path) -> None:
        """Go back to what `save` wrote."""
        saved = torch.load(path, weights_only=True)
        for name in ("model", "average", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])
        self.losses, self.counts, self.seconds = saved["losses"], saved["counts"], saved["seconds"]


def to_tensors(
    examples: list[Example], model: TinyDualEncoder, tokenizer: TinyTokenizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pictures and captions of a batch as pixels_BCHW, tokens_BT."""
    size, context_length = model.config.image_size, model.config.context_length
    pixels = [torch.from_numpy(picture_to_pixels(open_picture(example.a), size=size)) for example in examples]
    captions = [read_caption(example.b) for example in examples]
    return torch.stack(pixels), torch.from_numpy(tokenizer.encode(captions, context_length=context_length))


def train(log: BatchLog, args: argparse.Namespace) -> Run:
    """Train on every batch of `log` and write the model, a moving average of the weights, to `args.out`."""
    torch.set_num_threads(args.threads)
    config, tokenizer = load_settings(args.init_model)
    run = Run(initial_model(config, seed=args.init_seed), lr=args.lr, warmup=args.warmup, ema=args.ema)
    state_file = args.out / "state.pt"
    if resumed := args.resume and state_file.exists():
        run.load(state_file)
    reader = ExampleReader({**log.roots(), **dict(args.data_root)}, check_uids=True)  # (1) where the tars are
    table = log.shard_table()
    log.register(args.name, checkpoint_every=args.checkpoint_every, ttl_s=args.ttl_s, rewind=resumed)  # (2) who we are
    if not resumed:  # the service refuses to go back without a saved state, so have one before the first step
        run.save(state_file, log.state())
    durable_seq, began_s, asked_s = len(run.losses), time.monotonic() - run.seconds["total"], time.monotonic()
    for batch in log:  # (3) the batches, in order, as they are composed
        run.seconds["waiting"] += time.monotonic() - asked_s
        run.step(*to_tensors(reader.read_rows(batch.rows, table), run.model, tokenizer))
        run.counts["examples_trained"] += len(batch.rows)
        run.counts["examples_loaded"] += batch.B
        run.counts["generations"] = batch.generation
        run.counts["max_staleness"] = max(run.counts["max_staleness"], batch.staleness or 0)
        run.seconds["total"] = time.monotonic() - began_s
        trained_seq = batch.seq + 1
        if args.checkpoint_every and trained_seq % args.checkpoint_every == 0:  # (4) weights to score the next with
            root, path = args.push_root
            weights = weights_to_bytes(run.average.state_dict())
            key = f"checkpoints/{log.job}/{trained_seq:012d}-{sha256(weights).hexdigest()[:16]}.safetensors"
            log.push_checkpoint(weights, root=root, root_path=path, key=key, trained_seq=trained_seq)
        if trained_seq % args.save_every == 0:
            run.save(state_file, log.state())
            durable_seq = trained_seq
        log.progress(trained_seq=trained_seq, durable_seq=durable_seq)  # (5) room for more batches
        show(run, batch.generation, how=args.log)
        asked_s = time.monotonic()
    run.save(state_file, log.state())
    log.progress(trained_seq=len(run.losses), durable_seq=len(run.losses))
    save_model(args.out, run.average, tokenizer)
    (args.out / "metrics.json").write_text(json.dumps(metrics(run), indent=2) + "\n")
    return run


def metrics(run: Run) -> dict[str, object]:
    """Return what the run cost and how its loss went; the FLOPs of training are those of three forwards."""
    flops = 3.0 * forward_flops_per_example(run.model.config) * run.counts["examples_trained"]
    steps_per_s = len(run.losses) / max(1e-9, run.seconds["total"] - run.seconds["waiting"])
    costs = {"seconds": run.seconds["total"], "seconds_waiting": run.seconds["waiting"], "steps_per_s": steps_per_s}
    return {"steps": len(run.losses), **run.counts, "training_flops": flops, **costs, "losses": run.losses}


def show(run: Run, generation: int, *, how: str) -> None:
    """Show on stderr how far the run is, one line per step: for people, or a JSON object."""
    step, loss, seconds = len(run.losses), run.losses[-1], round(run.seconds["total"], 3)
    if how == "json":
        shown = {"step": step, "loss": loss, "generation": generation, "seconds": seconds}
        print(json.dumps(shown), file=sys.stderr, flush=True)
    elif how == "text":
        print(f"step {step}  loss {loss:.3f}  generation {generation}  {seconds:.0f} s", file=sys.stderr, flush=True)


def named_path(text: str) -> tuple[str, Path]:
    """Return (name, path) of "name=path"."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be name=path; got {text!r}")
    return name, Path(path)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the tiny dual encoder on the batches of a Superbatch job.")
    add = parser.add_argument
    add("--url", required=True, help="address of the service")
    add("--job", required=True, help="id of the job whose batches are trained on")
    add("--token-file", type=Path, required=True, help="file that holds the bearer token")
    add("--init-model", type=Path, required=True, help="folder with config.json and tokenizer.json (not its weights)")
    add("--out", type=Path, required=True, help="folder for the model, metrics.json and the state to resume from")
    add("--data-root", type=named_path, action="append", default=[], help="name=path of a root, where it differs here")
    add("--init-seed", type=int, default=1, help="seed of the first weights")
    add("--lr", type=float, default=6e-3, help="learning rate after the warm-up")
    add("--warmup", type=int, default=20, help="steps of warm-up")
    add("--ema", type=float, default=0.97, help="decay of the moving average of the weights; 0 for the weights alone")
    add("--threads", type=int, default=1, help="threads of torch")
    add("--checkpoint-every", type=int, help="push the averaged weights every so many batches")
    add("--push-root", type=named_path, help="name=path of the root that checkpoints are pushed through")
    add("--save-every", type=int, default=20, help="save the state to resume from every so many batches")
    add("--resume", action="store_true", help="go on from the state saved in --out, if there is one")
    add("--name", default="trainer", help="name of this trainer; the same name takes over after a crash")
    add("--ttl-s", type=float, default=600.0, help="seconds of silence after which the service stops composing")
    add("--log", choices=("text", "json", "none"), default="text", help="what is shown on stderr")
    args = parser.parse_args(argv)
    if (args.checkpoint_every is None) != (args.push_root is None):
        parser.error("--checkpoint-every and --push-root belong together")
    return args


def main(argv: list[str] | None = None) -> None:
    """Open the log where the saved state stands, or at its start, and train."""
    args = arguments(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    state_file = args.out / "state.pt"
    state = torch.load(state_file, weights_only=True)["log"] if args.resume and state_file.exists() else None
    with BatchLog(args.url, args.job, token=args.token_file.read_text().strip(), state=state) as log:
        train(log, args)


if __name__ == "__main__":
    main()
