"""`superbatch export-tars`: a job's batches as WebDataset tars in which every joint batch stays whole."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from superbatch.cli.errors import Exit
from superbatch.cli.logs import (
    Connect,
    add_log_options,
    add_range_options,
    add_shard_options,
    batches_of,
    open_log,
    row_reader,
    stop_seq,
)
from superbatch.cli.progress import ProgressLine, bar
from superbatch.cli.text import count

if TYPE_CHECKING:
    from superbatch.webdataset.layout import TarLayout

HELP = """Write the batches of a job as WebDataset tars that stock readers give back whole and in order.

    superbatch export-tars JOB tars --world-size 8
        tar t*8 + r holds what rank r trains in step t: slot range r of batch t, pictures and captions as stored

A tar that is there is never written again, so the same command goes on after an interruption; the same job gives the
same bytes. Of a running job it waits for the batches that are still to come.
"""


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Describe `export-tars`."""
    add_log_options(parser)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the tars go; made when missing")
    add_shard_options(parser)
    add_range_options(parser)
    parser.set_defaults(run_log=run_export_tars)


def run_export_tars(options: argparse.Namespace, connect: Connect) -> Exit:
    """Write the tars and print how to train on them."""
    from superbatch.webdataset.export import check_image_text, export_tars
    from superbatch.webdataset.layout import TarLayout
    from superbatch.webdataset.tar_folder import Origin, TarFolder

    with open_log(options, connect) as log:
        stop, table = stop_seq(options, log), log.shard_table()
        check_image_text(table)
        layout = TarLayout(log.manifest().policy.b, options.world_size, options.accumulation)
        origin = Origin(options.job, log.state()["history_id"], options.metadata)
        folder = TarFolder(options.folder, layout=layout, origin=origin)
        batches = batches_of(log, options.from_seq, stop)
        line, num_tars, num_bytes, next_seq = ProgressLine(sys.stdout), 0, 0, options.from_seq
        try:
            for done in export_tars(batches, row_reader(options, log, table), folder):
                num_tars, num_bytes, next_seq = num_tars + done.num_written, num_bytes + done.num_bytes, done.seq + 1
                line.show("exporting", _progress(options.from_seq, next_seq, stop, num_bytes, plain=line.is_plain))
        finally:
            line.end()
    print(f"{count(num_tars, 'tar')} written, {count(num_bytes, 'byte')}; in {options.folder}:")
    print(usage(str(options.folder), layout, options.from_seq, next_seq))
    return Exit.OK


def usage(place: str, layout: TarLayout, first_seq: int, next_seq: int) -> str:
    """Return what to give to open_clip for batches [first_seq, next_seq)."""
    from superbatch.webdataset.layout import tar_pattern

    pattern = tar_pattern(layout.tar_indices(first_seq, next_seq))
    accumulation = f" --accum-freq {layout.accumulation}" if layout.accumulation > 1 else ""
    return (
        f"  --train-data '{place}/{pattern}' --dataset-type webdataset --train-num-samples "
        f"{(next_seq - first_seq) * layout.b} --batch-size {layout.rows_per_tar}{accumulation}"
    )


def _progress(first_seq: int, next_seq: int, stop: int | None, num_bytes: int, *, plain: bool) -> str:
    done = next_seq - first_seq
    if stop is None:
        return f"{count(done, 'batch').replace('batchs', 'batches')}, {num_bytes / 1e6:,.1f} MB"
    total = stop - first_seq
    return f"{bar(done / total, plain=plain)} {done:,} of {total:,} batches, {num_bytes / 1e6:,.1f} MB"
