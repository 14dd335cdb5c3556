"""`superbatch verify-loader`: hold a loader against the contract, with real processes and real faults."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from superbatch.cli.errors import CommandError, Exit

if TYPE_CHECKING:
    from superbatch.conformance.report import Report
    from superbatch.conformance.run import CaseResult

HELP = """Prove that a loader gives each rank exactly its rows of every batch, in order, after every resume and fault.

    superbatch verify-loader -- python -m superbatch.conformance.reference_loader
    superbatch verify-loader --launcher torchrun --world 1,2 --cases full --report out.html -- python my_loader.py

The command is started many times against a small job that this program makes and serves. It must write what it trained
with superbatch.conformance.Trace: docs/trainers/conformance.md shows the five lines. Exit code 1 when a case fails.
"""


SETS = ("quick", "pairwise", "single", "full")


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Describe the flags."""
    add = parser.add_argument
    add("--cases", choices=SETS, default="full", help="quick: 2 cases; pairwise, single, full: both (full)")
    add("--world", type=_sizes, default=[1, 2, 4], metavar="R,R", help="world sizes (1,2,4)")
    add("--workers", type=_counts, default=[0, 2], metavar="W,W", help="worker processes of the loader (0,2)")
    add("--accumulation", type=_sizes, default=[1, 2], metavar="A,A", help="micro-steps per optimizer step (1,2)")
    add("--steps", type=int, default=24, metavar="N", help="batches of the job, at least 6 (24)")
    add(
        "--launcher",
        default="none",
        metavar="none|torchrun|TEXT",
        help="none: the command once per rank; torchrun; or a text with {world_size} and {master_port} put before it",
    )
    add("--timeout", type=float, default=180.0, metavar="S", help="longest time of one start in seconds (180)")
    add("--report", type=Path, metavar="FILE", help="write the report too: .html, .json or .txt")
    add("--keep", type=Path, metavar="DIR", help="keep traces and output here (else only when a case fails)")
    add("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="how one rank of the loader is started")
    parser.set_defaults(run_alone=verify_loader)


def verify_loader(options: argparse.Namespace) -> Exit:
    """Run the cases, print each as it ends, and explain what failed."""
    # The kit reads Parquet; the other commands should not wait for that import.
    from superbatch.conformance.cases import cases_of
    from superbatch.conformance.processes import ProcessLauncher
    from superbatch.conformance.report import Report, details, header, line
    from superbatch.conformance.run import run_cases

    command = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not command:
        raise CommandError(
            "a loader must be named; got no command. Put it last: superbatch verify-loader -- python x.py"
        )
    if options.report is not None and options.report.suffix not in (".html", ".json", ".txt"):
        raise CommandError(f"--report must end in .html, .json or .txt; got {str(options.report)!r}.")
    cases = cases_of(
        options.cases,
        world_sizes=options.world,
        workers=options.workers,
        accumulations=options.accumulation,
        num_steps=options.steps,
    )
    folder = Path(tempfile.mkdtemp(prefix="superbatch-verify-")) if options.keep is None else options.keep
    launcher = ProcessLauncher(command, options.launcher, options.timeout)
    print(f"{len(cases)} cases of {options.steps} batches; traces in {folder}\n{header()}", flush=True)
    results: list[CaseResult] = []

    def show(result: CaseResult) -> None:
        results.append(result)
        print(line(len(results), result), flush=True)
        if not result.has_passed:
            print("\n".join(details(len(results), result)), flush=True)

    try:
        run_cases(cases, launcher, folder, num_steps=options.steps, on_result=show)
    except OSError as error:
        raise CommandError(f"the command must be one that can be started; {error} ({command[0]}).") from error
    report = Report(command, options.launcher, results)
    print(f"\n{report.summary()}")
    if options.report is not None:
        _write(report, options.report)
    if report.has_passed and options.keep is None:
        shutil.rmtree(folder)
    return Exit.OK if report.has_passed else Exit.ENDED_BADLY


def _write(report: Report, path: Path) -> None:
    from superbatch.conformance.report import html_report, json_report, text_report

    if path.suffix == ".html":
        text = html_report(report)
    elif path.suffix == ".json":
        text = json.dumps(json_report(report), indent=2) + "\n"
    else:
        text = text_report(report) + "\n"
    path.write_text(text, encoding="utf-8")
    print(f"report: {path}", file=sys.stderr)


def _sizes(text: str) -> list[int]:
    return _numbers(text, minimum=1)


def _counts(text: str) -> list[int]:
    return _numbers(text, minimum=0)


def _numbers(text: str, *, minimum: int) -> list[int]:
    words = text.split(",")
    if not all(word.isdigit() and int(word) >= minimum for word in words) or len(set(words)) != len(words):
        raise argparse.ArgumentTypeError(f"must be different numbers from {minimum} on, like 1,2,4; got {text!r}")
    return [int(word) for word in words]
