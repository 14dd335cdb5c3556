"""What the commands that read a job's log share: where the log and its shards are, and which batches are meant."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from superbatch.cli.connection import Connection
from superbatch.cli.errors import CommandError

if TYPE_CHECKING:
    from superbatch.formats.shards import ShardTable
    from superbatch.log import BatchLog, LogBatch, LogState
    from superbatch.webdataset.export import ReadRows

Connect = Callable[[], Connection]


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Add the job, and where its log lies when no service is asked."""
    parser.add_argument("job", metavar="JOB", help="id of the job")
    parser.add_argument(
        "--prefix", metavar="URI", help="read the log from these files (a folder, s3://, gs://), not from the service"
    )


def add_shard_options(parser: argparse.ArgumentParser) -> None:
    """Add where the shards are seen from here, and how the batches are cut."""
    parser.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="NAME=ADDRESS",
        help="where a root of the service is from here: a folder, or a URL (repeat; else the service's own folder)",
    )
    parser.add_argument("--world-size", type=int, required=True, metavar="R", help="ranks of the trainer")
    parser.add_argument(
        "--accumulation", type=int, default=1, metavar="A", help="micro-steps per step (open_clip: --accum-freq)"
    )
    parser.add_argument("--metadata", action="store_true", help="also write KEY.json: uid, seq, slot, variant")


def add_range_options(parser: argparse.ArgumentParser) -> None:
    """Add which batches are meant."""
    parser.add_argument("--from-seq", type=int, default=0, metavar="S", help="first batch (0)")
    parser.add_argument("--to-seq", type=int, metavar="S", help="first batch after them (the end of the job)")
    parser.add_argument(
        "--no-wait", action="store_true", help="take the batches that are there, and do not wait for more"
    )


def open_log(options: argparse.Namespace, connect: Connect, state: LogState | None = None) -> BatchLog:
    """Return the log of the job, from the service or from files.

    Raises:
        InvalidInput: no log lies at --prefix.
        CommandError: it is that of another job.
    """
    from superbatch.log import BatchLog

    if options.prefix is not None:
        log = BatchLog.from_prefix(options.prefix, state=state)  # not named: a wrong prefix would be waited for
        if log.job != options.job:
            raise CommandError(f"--prefix must hold the log of job {options.job}; got that of {log.job}.")
        return log
    connection = connect()
    return BatchLog(connection.url, options.job, token=connection.token or None, state=state)


def row_reader(options: argparse.Namespace, log: BatchLog, table: ShardTable) -> ReadRows:
    """Return what reads rows of the job's shards.

    Raises:
        CommandError: a --root that is none.
    """
    from superbatch.reading import ExampleReader

    named = dict(map(_named_root, options.root))
    known = {} if options.prefix is not None else log.roots()
    reader = ExampleReader({**known, **named})
    return lambda rows: reader.read_rows(rows, table)


def stop_seq(options: argparse.Namespace, log: BatchLog) -> int | None:
    """Return the first batch after those that are meant, or None for as many as the job will have.

    Raises:
        CommandError: a range without a batch.
    """
    manifest = log.manifest()
    stop: int | None = options.to_seq
    if options.no_wait:
        stop = manifest.next_seq if stop is None else min(stop, manifest.next_seq)
    elif stop is None:
        stop = manifest.final_seq
    if options.from_seq < 0 or (stop is not None and options.from_seq >= stop):
        raise CommandError(
            f"the range must hold a batch; got --from-seq {options.from_seq} and {stop} batches (job {options.job}, "
            f"which has {manifest.next_seq} now). Choose others, or wait for more."
        )
    return stop


def batches_of(log: BatchLog, first_seq: int, stop: int | None) -> Iterator[LogBatch]:
    """Yield batches [first_seq, stop) of a log that stands at its start, to the end of the job for None."""
    for batch in log:
        if batch.seq >= first_seq:
            yield batch
        if stop is not None and batch.seq + 1 >= stop:
            return


def _named_root(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not name or not equals or not address:
        raise CommandError(f"--root must be NAME=ADDRESS, like pool=/data/pool; got {text!r}.")
    return name, address
