"""`superbatch preview`: what selection would do to your own data, measured on a sample of it before anything starts."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import torch

from superbatch.cli.errors import CommandError
from superbatch.cli.parser import Parser
from superbatch.cli.progress import ProgressLine, bar
from superbatch.cli.text import count, shown
from superbatch.selection import criterion_weights
from superbatch.selection.criteria import Criterion
from superbatch.selection.spec import Loss
from superbatch_server.preview.curves import measure
from superbatch_server.preview.document import document
from superbatch_server.preview.embedded import MODELS, EmbeddedSample, drawn_sample, read_embeddings, write_embeddings
from superbatch_server.preview.encode import embed_tars
from superbatch_server.preview.findings import find
from superbatch_server.preview.picture import picture
from superbatch_server.preview.plan import CHUNKS, RATIOS, Plan, largest_batch
from superbatch_server.preview.report import report

HELP = """Measure on a sample of your own data how learnable a selected batch is: over N chunks, over filter ratios f,
and against Gibbs sampling, the brute force (Fig. 2 of the JEST paper). Writes preview.svg and preview.json.

    superbatch preview embeddings.npz
        embeddings of the same pairs under learner and reference; docs/preview.md lists the arrays
    superbatch preview --data /path/to/tars --reference ref/ --learner learner/ --rows 4096
        embeds a sample of WebDataset tars first, with the model folders that `superbatch models add` takes
"""

DEFAULT_ROWS = 8192


def command(arguments: list[str]) -> int:
    """Measure, write both files and print what they say."""
    options = _parser().parse_args(arguments)
    line = ProgressLine(sys.stderr)

    def shows(head: str) -> Callable[[float, str], None]:
        return lambda done, what: line.show(head, f"{bar(done, plain=line.is_plain)} {100 * done:3.0f}%  {what}")

    _check_options(options)
    sample = _sample(options, shows("embedding"))
    plan = _plan(options, num_rows=len(sample))
    curves = measure(sample, plan, on_progress=shows("measuring"))
    line.show("measuring", "done")
    line.end()
    findings = find(curves)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "preview.svg").write_text(picture(sample, findings), encoding="utf-8")
    made = json.dumps(document(sample, findings), indent=2, ensure_ascii=False) + "\n"
    (options.out / "preview.json").write_text(made, encoding="utf-8")
    print(_about(sample, plan))
    print(report(findings))
    print(f"\nWritten: {shown(str(options.out / 'preview.svg'))}, preview.json")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="superbatch preview", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("embeddings", type=Path, nargs="?", metavar="EMBEDDINGS", help=".npz or .safetensors")
    add("--data", type=Path, nargs="+", metavar="PATH", help="tars, or folders of tars, to embed a sample of")
    add("--reference", type=Path, metavar="DIR", help="model folder of the reference (family tiny)")
    add("--learner", type=Path, metavar="DIR", help="model folder of the learner (family tiny)")
    add("--rows", type=int, default=DEFAULT_ROWS, metavar="M", help=f"rows sampled, at most (default {DEFAULT_ROWS})")
    add("--loss", choices=get_args(Loss), default="sigmoid", help="loss of both models (default sigmoid)")
    add("--criterion", choices=get_args(Criterion), default="learnability")
    add("-b", "--batch", type=int, metavar="ROWS", help="rows of a batch (default: the most that the rows allow)")
    add("-f", "--filter-ratio", type=float, default=0.8, metavar="F", help="f of the curve over N (default 0.8)")
    add("-N", "--rounds", type=int, metavar="N", help="N of the curve over f (default 16)")
    add("--chunks", type=int, nargs="+", metavar="N", help=f"the curve over N (default {_spaced(CHUNKS)})")
    add("--ratios", type=float, nargs="+", default=RATIOS, metavar="F", help=f"over f (default {_spaced(RATIOS)})")
    add("--gain", type=float, default=1.0, help="inverse temperature of the score (default 1)")
    add("--seeds", type=int, default=3, help="how often everything is measured (default 3)")
    add("--iterations", type=int, default=2000, help="most iterations of Gibbs sampling; 0 for none (default 2000)")
    add("--threads", type=int, help="threads of torch (default: all cores)")
    add("--out", type=Path, default=Path("preview"), metavar="DIR", help="folder to write to (default preview)")
    return parser


def _plan(options: argparse.Namespace, *, num_rows: int) -> Plan:
    """Return the plan for a sample; N that no flag asked for are left out where b is too small for them."""
    b = options.batch
    if b is None:
        b = largest_batch(num_rows, (*options.ratios, options.filter_ratio))
    return Plan(
        b=b,
        f=options.filter_ratio,
        num_chunks=min(16, b) if options.rounds is None else options.rounds,
        chunks=[N for N in CHUNKS if b >= N] if options.chunks is None else options.chunks,
        ratios=options.ratios,
        num_seeds=options.seeds,
        loss=options.loss,
        criterion=options.criterion,
        gain=options.gain,
        num_iterations=options.iterations,
    )


def _check_options(options: argparse.Namespace) -> None:
    """Raise for what no sample could mend, before one is read or embedded."""
    if (options.embeddings is None) == (options.data is None):
        raise CommandError(
            "a preview needs either a file of embeddings or --data; give one. See superbatch preview -h."
        )
    if options.rows < 2:
        raise CommandError(f"a sample needs 2 rows or more; got {options.rows} (--rows). Use some thousands.")
    if options.threads is not None and options.threads < 1:
        raise CommandError(f"--threads must be at least 1; got {options.threads}.")
    plan = _plan(options, num_rows=options.rows)
    if options.batch is not None and plan.num_rows_needed > options.rows:
        raise CommandError(
            f"b = {plan.b} at f up to {max(plan.f, *plan.ratios):g} needs {plan.num_rows_needed:,} rows; got "
            f"{options.rows:,} (--rows). Raise --rows, lower -b, or leave the largest f out with --ratios."
        )


def _sample(options: argparse.Namespace, on_progress: Callable[[float, str], None]) -> EmbeddedSample:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    weights = dict(zip(MODELS, criterion_weights(options.criterion), strict=True))
    models = [name for name in MODELS if weights[name]]
    if options.embeddings is not None:
        needs_bias = options.loss == "sigmoid"
        sample = read_embeddings(options.embeddings, models=models, needs_bias=needs_bias)
        return drawn_sample(sample, num_rows=options.rows)
    return drawn_sample(_embedded(options, models, on_progress), num_rows=options.rows)


def _embedded(
    options: argparse.Namespace, models: Sequence[str], on_progress: Callable[[float, str], None]
) -> EmbeddedSample:
    folders = {name: getattr(options, name) for name in models}
    if missing := [f"--{name}" for name, folder in folders.items() if folder is None]:
        raise CommandError(f"--data with {options.criterion} needs {' and '.join(missing)}: the folder of that model.")
    sample = embed_tars(
        options.data, folders, num_rows=options.rows, threads=torch.get_num_threads(), on_progress=on_progress
    )
    path = options.out / "embeddings.npz"
    write_embeddings(path, sample)
    print(f"Embedded {count(len(sample), 'row')}; another preview of them: superbatch preview {shown(str(path))}")
    return sample


def _about(sample: EmbeddedSample, plan: Plan) -> str:
    left_out = "; ".join(f"{number:,} left out: {shown(reason)}" for reason, number in sample.num_left_out.items())
    rows = f"{shown(sample.source)}: {count(len(sample), 'row')}" + (f" ({left_out})" if left_out else "")
    return f"{rows}. b = {plan.b:,}, {plan.loss} loss, {plan.criterion}, {count(plan.num_seeds, 'seed')}.\n"


def _spaced(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:g}" for number in numbers)
