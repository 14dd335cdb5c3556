"""The command `python -m superbatch.openclip [options] -- <arguments of open_clip's trainer>`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from superbatch.conformance import Trace
from superbatch.formats.errors import InvalidInput, SuperbatchError
from superbatch.openclip.plan import ReadingPlan
from superbatch.openclip.reports import Saving, StepReports
from superbatch.openclip.training_set import MakeReports, TrainingSet

DESCRIPTION = """Run open_clip's trainer (open_clip_train.main) on tars of `superbatch export-tars` or `serve-tars`,
with every joint batch whole and in order. All that follows -- goes to open_clip, as in:

    torchrun --nproc-per-node 2 -m superbatch.openclip -- \\
        --train-data 'tars/{00000000..00000047}.tar' --dataset-type webdataset \\
        --train-num-samples 192 --batch-size 4 --workers 2 --epochs 1 --model ViT-B-32
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run open_clip's trainer and return the exit code."""
    own, theirs = split_arguments(sys.argv[1:] if argv is None else argv)
    options = own_parser().parse_args(own)
    try:
        open_clip, data, trainer = _open_clip()
        if options.model_config is not None:
            open_clip.add_model_config(options.model_config)
        trace = Trace.from_environment()
        report = _reports(options.report, trace) if options.report else None
        data.get_wds_dataset = TrainingSet(data, keep_order=not options.as_is, trace=trace, report=report)
        if trainer.parse_args(theirs).device == "cpu":
            _accept_cpu(import_module("torch"))
        return int(trainer.main(theirs) or 0)
    except SuperbatchError as error:
        print(f"superbatch.openclip: {error}", file=sys.stderr)
        return 2


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return our options and open_clip's, parted by the first `--`; without one, all are open_clip's."""
    if "--" not in arguments:
        return ([*arguments], []) if {"-h", "--help"} & {*arguments} else ([], [*arguments])
    position = list(arguments).index("--")
    return [*arguments[:position]], [*arguments[position + 1 :]]


def own_parser() -> argparse.ArgumentParser:
    """Return the parser of our own options."""
    parser = argparse.ArgumentParser(
        prog="python -m superbatch.openclip",
        usage="%(prog)s [options] -- <arguments of open_clip>",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model-config", metavar="FILE", help="JSON of a model that open_clip does not bring along")
    parser.add_argument(
        "--as-is",
        action="store_true",
        help="leave the order as it is: with SUPERBATCH_TRACE this shows which rows open_clip trains on by itself",
    )
    parser.add_argument(
        "--report",
        metavar="NAME",
        help="report each trained batch to the service as the learner NAME (SUPERBATCH_URL, _JOB and _TOKEN say where)",
    )
    return parser


def _reports(name: str, trace: Trace) -> MakeReports:
    """Return what makes the reports of a run, on rank 0."""
    if trace.url is None or trace.job is None:
        raise InvalidInput(
            "--report needs the service and the job; set SUPERBATCH_URL, SUPERBATCH_JOB and SUPERBATCH_TOKEN."
        )
    url, job = trace.url, trace.job

    def make(plan: ReadingPlan, args: Any, epoch: int) -> StepReports:
        from superbatch.log import BatchLog

        return StepReports(
            partial(BatchLog, url, job, token=trace.token),
            name,
            plan=plan,
            epochs=range(epoch, args.epochs),
            num_workers=args.workers,
            saving=Saving(args.save_frequency, args.save_most_recent),
        )

    return make


def _open_clip() -> tuple[Any, Any, Any]:
    """Return the modules open_clip, open_clip_train.data and open_clip_train.main."""
    try:
        return tuple(map(import_module, ("open_clip", "open_clip_train.data", "open_clip_train.main")))  # type: ignore[return-value]
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"superbatch.openclip: open_clip's trainer must be installed; {error}. "
            "Install it beside superbatch: pip install 'open_clip_torch[training]==3.3.0'"
        ) from error


def _accept_cpu(torch: Any) -> None:
    """Let open_clip wrap a model on the CPU: it names a device, which torch takes on a GPU only.

    For rehearsals without a GPU; a run on one never comes here.
    """
    wrapped = torch.nn.parallel.DistributedDataParallel

    def distributed(model: Any, device_ids: object = None, **options: Any) -> Any:
        del device_ids
        return wrapped(model, **options)

    torch.nn.parallel.DistributedDataParallel = distributed


if __name__ == "__main__":
    sys.exit(main())
