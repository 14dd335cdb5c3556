"""`superbatch export-npy`: which rows a job chose, as the set of uids that DataComp's tools read."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from superbatch.cli.errors import Exit
from superbatch.cli.logs import Connect, add_log_options, add_range_options, batches_of, open_log, stop_seq
from superbatch.cli.progress import ProgressLine
from superbatch.cli.text import count

if TYPE_CHECKING:
    from superbatch.log import LogBatch

HELP = """Write the uids that a job chose as a DataComp subset file: a sorted .npy of dtype "u8,u8".

    superbatch export-npy JOB subset.npy --from-seq 1000

It is a SET. The batches, their order, and how often a row was chosen are lost: training on it is ordinary training on a
filtered data set. For jointly selected batches use `export-tars`, or a loader that reads the log.
"""


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Describe `export-npy`."""
    add_log_options(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="the .npy to write; replaced when it is there")
    add_range_options(parser)
    parser.set_defaults(run_log=run_export_npy)


def run_export_npy(options: argparse.Namespace, connect: Connect) -> Exit:
    """Write the set and say what it leaves out."""
    from superbatch.webdataset.uid_set import write_uid_set

    with open_log(options, connect) as log:
        stop = stop_seq(options, log)
        line = ProgressLine(sys.stdout)
        chosen = Chosen(batches_of(log, options.from_seq, stop), line)
        descriptor, part = tempfile.mkstemp(dir=options.file.parent, prefix=".part-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                num_uids = write_uid_set(file, chosen)
            os.chmod(part, 0o644)
            os.replace(part, options.file)
        finally:
            line.end()
            Path(part).unlink(missing_ok=True)
    print(
        f"{options.file}: {count(num_uids, 'uid')} of {count(chosen.num_rows, 'chosen row')}. "
        "A set: batches, order and repetitions are lost."
    )
    return Exit.OK


class Chosen(Iterable[bytes]):
    """Yields the uid of every chosen row, and counts them."""

    def __init__(self, batches: Iterator[LogBatch], line: ProgressLine) -> None:
        self._batches, self._line = batches, line
        self.num_rows = 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield uids in the order of the log."""
        for batch in self._batches:
            self.num_rows += batch.rows.num_rows
            yield from batch.rows.column("uid").to_pylist()
            self._line.show("reading", f"batch {batch.seq:,}, {count(self.num_rows, 'row')}")
