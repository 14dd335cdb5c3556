"""`superbatch plan`: what a curated run will cost, before it starts. Needs no service."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.plan_json import plan_document
from superbatch.cli.plan_report import Assumed, plan_text
from superbatch.selection.cost import Rates, Workload, plan
from superbatch.selection.cost.presets import DEVICES, find_architecture, find_device
from superbatch.selection.cost.rates import Device
from superbatch.selection.cost.steps import LowResolution
from superbatch.selection.cost.workload import Model
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.flops import forward_flops_per_example

HELP = """Say what a curated run will cost against uniform training: FLOPs, hours, kWh, money, storage; and how much
faster it must learn to pay for itself. Nothing is run and no service is needed.

    superbatch plan --model ViT-B-16-SigLIP-256 --rows 128M -b 32768 -f 0.8 --examples 1.28B --device H100 --devices 64
    superbatch plan --model runs/init/config.json --rows 5000 -b 128 --batches 400 --device CPU-core --devices 2

The length (--batches or --examples) is that of the uniform run. f is one number: for a schedule, plan its largest and
its smallest f. docs/planning.md says how every figure comes about, and what is not modelled.
"""

DEFAULT_MODEL = "ViT-B-16-SigLIP-256"
DEFAULT_WIDTH = 768
DEFAULT_DEVICE = "H100"
KILO, GIGA, TERA = 1e3, 1e9, 1e12
_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Describe the flags."""
    add = parser.add_argument_group("models").add_argument
    add("--model", metavar="NAME|FILE", help=f"architecture, or config.json of the tiny model ({DEFAULT_MODEL})")
    add("--reference-model", metavar="NAME|FILE", help="architecture of the reference (the model's)")
    add("--forward-gflops", type=float, metavar="X", help="forward GFLOPs of a pair, in place of the computed ones")
    add("--reference-gflops", type=float, metavar="X", help="the same of the reference")
    add("--width", type=int, metavar="D", help="width of an embedding, in place of the model's")
    add("--reference-examples", type=_count, default=0, metavar="E", help="examples to train the reference on (0)")
    add("--checkpoint-every", type=int, metavar="K", help="batches between two pushed checkpoints (none)")
    group = parser.add_argument_group("run")
    add = group.add_argument
    add("--rows", type=_count, default=_count("128M"), metavar="M", help="rows of the pool: 5000, 128M, 1.4B (128M)")
    add("-b", "--batch", type=int, default=32_768, metavar="ROWS", help="rows of a batch, over all ranks (32768)")
    add("-f", "--filter-ratio", type=_fraction, default=0.8, metavar="F", help="share thrown away, in [0, 1) (0.8)")
    add("-N", "--rounds", type=int, default=16, metavar="N", help="rounds of a joint selection (16)")
    add("--loss", choices=("sigmoid", "softmax"), default="sigmoid", help="(sigmoid)")
    add("--flexi-cost", type=_flexi_cost, default=0.28, metavar="X|model", help="low-resolution pass / full (0.28)")
    add("--example-kb", type=float, default=25.0, metavar="X", help="kB of a picture and caption as stored (25)")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--batches", type=_count, metavar="K", help="length of the uniform run")
    length.add_argument("--examples", type=_count, metavar="E", help="the same in examples trained (one pass)")
    add = parser.add_argument_group("device").add_argument
    add("--device", metavar="NAME", help=f"{', '.join(DEVICES)}; another with the next three flags (H100)")
    add("--peak-tflops", type=float, metavar="X", help="dense peak of one device (the preset's)")
    add("--watts", type=float, metavar="W", help="power of one device (the preset's)")
    add("--price", type=float, metavar="X", help="money for one device-hour (the preset's)")
    add("--dtype", metavar="TYPE", help="bf16, tf32, fp32, fp16 (the preset's first)")
    add("--devices", type=int, default=1, metavar="K", help="how many (1)")
    add("--utilisation", type=float, default=0.35, metavar="X", help="share of the peak reached: MFU (0.35)")
    add("--pue", type=float, default=1.2, metavar="X", help="power of the site for each watt of the devices (1.2)")
    add("--price-kwh", type=float, default=0.0, metavar="X", help="money for one kWh, beside --price (0)")
    add("--currency", default="USD", metavar="TEXT", help="name of the money (USD)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every figure and its unit")
    parser.set_defaults(run_alone=print_plan)


def print_plan(options: argparse.Namespace) -> Exit:
    """Print the plan."""
    found = plan(_workload(options), _rates(options))
    assumed = Assumed(currency=options.currency, price_is_given=options.price is not None)
    print(json.dumps(plan_document(found, assumed), indent=2) if options.json else plan_text(found, assumed))
    return Exit.OK


def find_model(name: str) -> Model:
    """Return a model by the name of its architecture, or by a path: the config.json of a tiny one or its folder.

    Raises: InvalidPlan for an unknown name, InvalidConfig, CommandError for a file that cannot be read.
    """
    path = Path(name)
    if path.suffix != ".json" and len(path.parts) == 1:
        return Model.of_architecture(*find_architecture(name))
    try:
        config = TinyConfig.load(path / "config.json" if path.is_dir() else path)
    except OSError as error:
        raise CommandError(f"--model must be readable; got {error.strerror} ({name}). Check its name.") from error
    return Model(f"tiny ({name})", forward_flops_per_example(config), config.width)


def _workload(options: argparse.Namespace) -> Workload:
    learner = _model(options.model, options.forward_gflops, options.width, default=DEFAULT_MODEL)
    reference = learner
    if options.reference_model is not None or options.reference_gflops is not None:
        reference = _model(options.reference_model, options.reference_gflops, options.width, default=learner)
    batches = options.batches
    if batches is None:
        examples = options.rows if options.examples is None else options.examples
        batches = -(-examples // max(1, options.batch))
    cost = learner.low_resolution_cost if options.flexi_cost is None else options.flexi_cost
    if cost is None:
        raise CommandError(f"--flexi-cost model needs an architecture by name; got {learner.name}. Give a number.")
    return Workload(
        learner=learner,
        reference=reference,
        rows=options.rows,
        b=options.batch,
        f=options.filter_ratio,
        N=options.rounds,
        num_batches=batches,
        loss=options.loss,
        reference_examples=options.reference_examples,
        example_bytes=options.example_kb * KILO,
        checkpoint_every=options.checkpoint_every,
        low_resolution=LowResolution(cost=cost),
    )


def _model(name: str | None, gflops: float | None, width: int | None, *, default: str | Model) -> Model:
    """Return the model that flags describe: by name or default, its figures replaced where they are given."""
    if name is not None:
        model = find_model(name)
    elif isinstance(default, Model):
        model = default
    elif gflops is None:
        model = find_model(default)
    else:
        model = Model("a model of the user's", forward_flops=gflops * GIGA, width=DEFAULT_WIDTH)
    if gflops is not None:
        model = replace(model, name=f"{model.name} (FLOPs as given)", forward_flops=gflops * GIGA)
    return model if width is None else replace(model, width=width)


def _rates(options: argparse.Namespace) -> Rates:
    name, device = _device(options)
    dtype = options.dtype or next(iter(device.peak_flops_per_s))
    if options.peak_tflops is None and dtype not in device.peak_flops_per_s:
        raise CommandError(
            f"--dtype of {name} must be one of {', '.join(device.peak_flops_per_s)}; got {dtype!r}. "
            "Give --peak-tflops for another."
        )
    peak = device.peak_flops_per_s[dtype] if options.peak_tflops is None else options.peak_tflops * TERA
    return Rates(
        device=name,
        dtype=dtype,
        peak_flops_per_s=peak,
        watts=device.watts if options.watts is None else options.watts,
        price_per_hour=device.price_per_hour if options.price is None else options.price,
        price_per_kwh=options.price_kwh,
        utilisation=options.utilisation,
        pue=options.pue,
        num_devices=options.devices,
    )


def _device(options: argparse.Namespace) -> tuple[str, Device]:
    """Return a preset, or a device of the user's own where all three of its figures are given."""
    peak, watts, price = options.peak_tflops, options.watts, options.price
    is_preset = options.device is not None and options.device.lower() in map(str.lower, DEVICES)
    if is_preset or None in (peak, watts, price):
        return find_device(options.device or DEFAULT_DEVICE)
    return options.device or "own device", Device({options.dtype or "bf16": peak * TERA}, watts, price)


def _count(text: str) -> int:
    """Return a count written as 5000, 5_000, 128M or 1.4B."""
    number, suffix = text.replace("_", "").replace(",", ""), ""
    if number[-1:].lower() in {"k", "m", "b"}:
        number, suffix = number[:-1], number[-1].lower()
    try:
        value = Decimal(number) * _SUFFIXES[suffix]
        holds = 0 <= value < 2**63 and value == int(value)
    except InvalidOperation:
        holds = False
    if not holds:
        raise argparse.ArgumentTypeError(f"a count must be a whole number like 5000, 128M or 1.4B; got {text!r}")
    return int(value)


def _fraction(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"f must be one number here; got {text!r}: for a schedule, plan its largest and its smallest f"
        ) from None


def _flexi_cost(text: str) -> float | None:
    """Return the number, or None for the model's own."""
    try:
        return None if text == "model" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number in (0, 1], or 'model'; got {text!r}") from None
