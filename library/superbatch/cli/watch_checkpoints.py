"""`superbatch watch-checkpoints`: push what a trainer writes into a folder, without any change to the trainer."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from superbatch.cli.client import HttpService
from superbatch.cli.convert import add_conversion_options, limits_of
from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.roots import list_roots, named_root
from superbatch.cli.text import count, shown

HELP = """Push every complete checkpoint that a trainer writes into a folder, once, and go on until the job has ended.

    superbatch watch-checkpoints logs/run/checkpoints --job JOB --batches-per-epoch 400
        epoch_3.pt is pushed as trained on 1,200 batches, once it has not changed for --settle-s
    superbatch watch-checkpoints out --job JOB --pattern 'step_*.safetensors' --batches-per-epoch 1 --marker
        step_500.safetensors counts batches, and is complete when step_500.safetensors.done is there
    superbatch watch-checkpoints out --job JOB
        each file waits for its sidecar: epoch_3.pt.json with {"trained_seq": 1200}

A file that cannot be used is reported and left alone until it changes. Started again, nothing is pushed twice.
"""

_ENDED = ("SUCCEEDED", "CANCELLED")


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Describe `watch-checkpoints`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the trainer writes its checkpoints")
    parser.add_argument("--job", required=True, help="id of the job whose learner is trained")
    parser.add_argument("--batches-per-epoch", type=int, metavar="N", help="batches per number in a name; 1 for steps")
    parser.add_argument("--pattern", action="append", metavar="GLOB", help="names to take (*.pt, *.pth, *.safetensors)")
    parser.add_argument("--marker", action="store_true", help="a file is complete when FILE.done is there")
    parser.add_argument("--settle-s", type=float, default=10.0, metavar="S", help="else when unchanged so long (10)")
    parser.add_argument("--poll-s", type=float, default=5.0, metavar="S", help="seconds between two looks (5)")
    parser.add_argument("--root", help="push through this root of the service, a folder here, in place of an upload")
    parser.add_argument("--ledger", type=Path, metavar="FILE", help="what was done (FOLDER/.superbatch-JOB.jsonl)")
    parser.add_argument("--once", action="store_true", help="stop when every file that is there is done with")
    add_conversion_options(parser)
    parser.set_defaults(run=watch_checkpoints)


def watch_checkpoints(
    options: argparse.Namespace,
    service: HttpService,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Exit:
    """Push checkpoints until the job has ended, or until none is left with --once."""
    from superbatch.checkpoints.ledger import Ledger
    from superbatch.checkpoints.watch import PATTERNS, CheckpointWatch, Rules

    _check(options)
    watch = CheckpointWatch(
        options.folder,
        Rules(options.pattern or PATTERNS, options.batches_per_epoch, options.marker, options.settle_s),
        push=_pusher(options, service),
        ledger=Ledger(options.ledger or options.folder / f".superbatch-{options.job}.jsonl"),
        report=lambda line: print(shown(line), flush=True),
        clock=clock,
    )
    while True:
        state = service.get(f"/v1/jobs/{options.job}").text("state")
        num_awaited = watch.look()
        if options.once and num_awaited == 0:
            return Exit.ENDED_BADLY if watch.num_refused else Exit.OK
        if state in _ENDED:
            print(f"{options.job}  {state}: no further checkpoint is needed")
            return Exit.OK
        sleep(options.poll_s)


def _check(options: argparse.Namespace) -> None:
    if not options.folder.is_dir():
        raise CommandError(f"checkpoints are watched for in a folder; {shown(str(options.folder))} is none. Make it.")
    if options.batches_per_epoch is not None and options.batches_per_epoch < 1:
        raise CommandError(f"--batches-per-epoch must be at least 1; got {options.batches_per_epoch}.")
    if not (options.settle_s >= 0 and options.poll_s > 0):
        raise CommandError(
            f"times must not be negative; got {options.settle_s}, {options.poll_s} (--settle-s, --poll-s)."
        )


def _pusher(options: argparse.Namespace, service: HttpService) -> Callable[[Path, int], str]:
    from superbatch.checkpoints.convert import convert_checkpoint
    from superbatch.log.push import Place, push_weights

    limits = limits_of(options)
    root = None if options.root is None else named_root(options.root, list_roots(service))
    if root is not None and root.directory is None:
        raise CommandError(
            f"--root must be a folder of this machine; {root.name} is elsewhere. Leave it out to upload."
        )

    def push(path: Path, trained_seq: int) -> str:
        with tempfile.TemporaryDirectory(prefix="superbatch-") as folder:
            weights = Path(folder) / "weights.safetensors"
            made = convert_checkpoint(
                path, weights, key=options.key, prefix=options.prefix, job=options.job, limits=limits
            )
            place = None
            if root is not None and root.directory is not None:
                key = f"checkpoints/{options.job}/{trained_seq:012d}-{made.sha256[:16]}.safetensors"
                place = Place(root.name, root.directory, key)
            pushed = push_weights(service.client, options.job, weights, trained_seq=trained_seq, place=place)
        tensors = count(made.num_tensors, "tensor")
        return f"pushed as {pushed.checkpoint_id} ({pushed.state}), trained_seq {trained_seq:,}, {tensors}"

    return push
