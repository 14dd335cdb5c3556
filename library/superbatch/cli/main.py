"""The main of the command `superbatch`: reads the command line and the environment, runs one command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from superbatch import __version__
from superbatch.cli import (
    convert,
    datasets,
    delete,
    exclusions,
    export_npy,
    export_tars,
    gc,
    history,
    jobs,
    models,
    plan,
    serve_tars,
    submit,
    tokens,
    verify_loader,
    watch,
    watch_checkpoints,
)
from superbatch.cli.client import HttpService
from superbatch.cli.connection import Connection, add_connection_options, find_connection
from superbatch.cli.errors import CommandError, Exit, NoService
from superbatch.cli.parser import Parser
from superbatch.cli.plugins import SERVER_COMMANDS, Installed, find_plugin, installed_commands
from superbatch.cli.text import shown
from superbatch.formats.errors import ServiceError, ServiceUnreachable, SuperbatchError

DESCRIPTION = """Superbatch selects the batches that a contrastive model learns most from.

commands of the client:
    datasets add | list     register the shards to curate
    models add | list       register a reference or a learner
    convert FILE OUT        a trainer's checkpoint into the safetensors that the service takes; needs no service
    watch-checkpoints DIR   push every checkpoint that a trainer writes into a folder
    export-tars JOB FOLDER  the batches as WebDataset tars that stock readers keep whole
    serve-tars JOB          the same tars over HTTP, as the batches are composed
    export-npy JOB FILE     the chosen rows as a DataComp subset file: a set, without batches or order
    plan                    what a curated run will cost, and when it pays; needs no service
    verify-loader -- CMD    prove that a loader keeps every batch whole; needs no service
    submit                  submit a job from a spec or from flags
    watch JOB               follow a job: phase, shards, batches, filter ratio, staleness
    jobs list               list jobs
    events JOB              a job's history; --follow: until it is over
    logs JOB                what its driver wrote; --follow, --attempt, --tail
    cancel JOB              stop a job; what it published stays
    retry JOB               let a FAILED job go on where it stopped
    exclusions JOB          keep rows out of its batches, and see which batches that withdrew
    delete KIND ID ...      forget jobs, data sets and models that nothing refers to
    gc                      what nothing refers to any more: shown, removed with --delete
    tokens create | list | delete   access tokens of limited scope

commands of the server (package superbatch-server):
"""

RAW = argparse.RawDescriptionHelpFormatter


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of this process and return its exit code."""
    return run(sys.argv[1:] if argv is None else argv, environment=os.environ)


def run(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    connect: Callable[[Connection], HttpService] = HttpService,
    installed: Installed = installed_commands,
) -> int:
    """Run one command and return its exit code; errors are one line on standard error."""
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in CLIENT_COMMANDS:
            return find_plugin(arguments[0], installed)(list(arguments[1:]))
        options = build_parser().parse_args(arguments)
        if options.command in LOCAL_COMMANDS:
            return int(options.run_alone(options))
        if options.command in LOG_COMMANDS:
            return int(options.run_log(options, lambda: find_connection(options, environment)))
        with connect(find_connection(options, environment)) as service:
            return int(options.run(options, service))
    except BrokenPipeError:
        # The reader of our output has gone (`superbatch events JOB | head`); nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return Exit.INTERRUPTED
    except SuperbatchError as error:
        print(f"superbatch: {_sentence(error)}", file=sys.stderr)
        return _exit_of(error)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the client's commands."""
    parser = Parser(
        prog="superbatch",
        usage="superbatch COMMAND ...",
        description=_description(),
        epilog=_epilog(),
        formatter_class=RAW,
    )
    parser.add_argument("--version", action="version", version=f"superbatch {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS, prog="superbatch"
    )
    connection = Parser(add_help=False)
    add_connection_options(connection)
    datasets.add_parsers(commands.add_parser("datasets"), connection)
    models.add_parsers(commands.add_parser("models"), connection)
    jobs.add_list_parser(commands.add_parser("jobs"), connection)
    tokens.add_parsers(commands.add_parser("tokens"), connection)
    history.add_events_parser(
        commands.add_parser("events", parents=[connection], description=history.EVENTS_HELP, formatter_class=RAW)
    )
    history.add_logs_parser(
        commands.add_parser("logs", parents=[connection], description=history.LOGS_HELP, formatter_class=RAW)
    )
    submit.add_parsers(
        commands.add_parser("submit", parents=[connection], description=submit.HELP, formatter_class=RAW)
    )
    plan.add_parsers(commands.add_parser("plan", description=plan.HELP, formatter_class=RAW))
    verify_loader.add_parsers(commands.add_parser("verify-loader", description=verify_loader.HELP, formatter_class=RAW))
    convert.add_parsers(commands.add_parser("convert", description=convert.HELP, formatter_class=RAW))
    watch_checkpoints.add_parsers(
        commands.add_parser(
            "watch-checkpoints", parents=[connection], description=watch_checkpoints.HELP, formatter_class=RAW
        )
    )
    for name, module in {**LOG_COMMANDS, **UPKEEP_COMMANDS}.items():
        module.add_parsers(
            commands.add_parser(name, parents=[connection], description=module.HELP, formatter_class=RAW)
        )
    for name, run in JOB_COMMANDS.items():
        command = commands.add_parser(name, parents=[connection], description=run.__doc__)
        command.add_argument("job", metavar="JOB", help="id of the job")
        command.set_defaults(run=run)
    return parser


JOB_COMMANDS = {"watch": watch.watch, "cancel": jobs.cancel, "retry": jobs.retry}
LOG_COMMANDS = {"export-tars": export_tars, "serve-tars": serve_tars, "export-npy": export_npy}
"""Commands that read a job's log, from the service or from files."""
UPKEEP_COMMANDS = {"exclusions": exclusions, "delete": delete, "gc": gc}
LOCAL_COMMANDS = frozenset({"plan", "convert", "verify-loader"})
"""Commands that need no service."""
CLIENT_COMMANDS = frozenset(
    {
        "datasets",
        "models",
        "jobs",
        "submit",
        "events",
        "logs",
        "tokens",
        "watch-checkpoints",
        *LOCAL_COMMANDS,
        *LOG_COMMANDS,
        *JOB_COMMANDS,
        *UPKEEP_COMMANDS,
    }
)


def _description() -> str:
    return DESCRIPTION + "\n".join(f"    {name:<23} {meaning}" for name, meaning in SERVER_COMMANDS.items())


def _epilog() -> str:
    return "exit codes:\n" + "\n".join(f"    {code:>3}  {code.meaning}" for code in Exit)


def _sentence(error: SuperbatchError) -> str:
    if isinstance(error, ServiceError):
        return f"{shown(error.detail)} [{shown(error.problem_code)}, HTTP {error.status}]"
    return str(error)


def _exit_of(error: SuperbatchError) -> Exit:
    if isinstance(error, ServiceError):
        return Exit.REFUSED
    if isinstance(error, (ServiceUnreachable, NoService)):
        return Exit.UNREACHABLE
    return Exit.USAGE if isinstance(error, (CommandError, ValueError)) else Exit.REFUSED


if __name__ == "__main__":
    sys.exit(main())
