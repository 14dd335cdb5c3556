"""`superbatch convert`: a trainer's checkpoint into the safetensors file that the service takes."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.text import count, shown

if TYPE_CHECKING:
    from superbatch.checkpoints.convert import Converted, Limits

HELP = """Take the model out of a checkpoint and write it as safetensors.

    superbatch convert logs/run/checkpoints/epoch_3.pt epoch_3.safetensors
        open_clip, Lightning, plain torch.save: the model is found; optimizer state and counters stay behind
    superbatch convert state.pt average.safetensors --key average
        names the entry that holds the model
    superbatch convert last.ckpt learner.safetensors --prefix model.clip.
        takes the tensors below a prefix, and strips it; module. and _orig_mod. are always stripped

The file is read in a process of its own, with torch.load(weights_only=True), without a network, and within limits.
"""


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Describe `convert`."""
    parser.add_argument("source", type=Path, metavar="FILE", help="file of torch.save, or safetensors")
    parser.add_argument("out", type=Path, metavar="OUT", help="the safetensors file to make; never overwritten")
    parser.add_argument("--job", help="id of the job whose learner this is, noted in the file")
    add_conversion_options(parser)
    parser.set_defaults(run_alone=convert)


def add_conversion_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the model is in a file, and what reading it may take."""
    parser.add_argument("--key", help="entry that holds the model (else found by the usual names)")
    parser.add_argument("--prefix", default="", help="take the tensors below it only, and strip it")
    parser.add_argument(
        "--memory-bytes", type=int, metavar="N", help="memory beyond torch's own (3 times the file, and 1 GiB)"
    )
    parser.add_argument("--cpu-s", type=int, default=600, metavar="S", help="seconds of processor time (600)")


def limits_of(options: argparse.Namespace) -> Limits:
    """Return the limits that the options state. Raises: CommandError."""
    from superbatch.checkpoints.convert import Limits

    if options.cpu_s < 1 or (options.memory_bytes is not None and options.memory_bytes < 1):
        raise CommandError(
            f"limits must be at least 1; got {options.memory_bytes} bytes and {options.cpu_s} s "
            "(--memory-bytes, --cpu-s). Leave them out for the defaults."
        )
    return Limits(memory_bytes=options.memory_bytes, cpu_s=options.cpu_s, wall_s=3.0 * options.cpu_s)


def convert(options: argparse.Namespace) -> Exit:
    """Convert one file and say what was kept and what was left out."""
    from superbatch.checkpoints.convert import convert_checkpoint

    try:
        made = convert_checkpoint(
            options.source,
            options.out,
            key=options.key,
            prefix=options.prefix,
            job=options.job,
            limits=limits_of(options),
        )
    except OSError as error:
        raise CommandError(
            f"files must be readable and writable; got {error.strerror} ({shown(str(error.filename))}). Check its name."
        ) from error
    print(f"kept {count(made.num_tensors, 'tensor')}, {', '.join(made.dtypes)}, {count(made.num_bytes, 'byte')}")
    print("left out: " + (_left_out(made) or "nothing"))
    print(f"{shown(str(options.out))}  sha256 {made.sha256}" + ("" if made.is_offline else "  (read with a network)"))
    return Exit.OK


def _left_out(made: Converted) -> str:
    """Return the names per reason, a few of each."""
    reasons = Counter(made.left_out.values())
    names = {why: [shown(name) for name, each in made.left_out.items() if each == why] for why in reasons}
    return "; ".join(
        f"{', '.join(listed[:5])}{f' and {len(listed) - 5} more' if len(listed) > 5 else ''} ({why})"
        for why, listed in names.items()
    )
