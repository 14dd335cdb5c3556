"""`superbatch serve-tars`: the tars of `export-tars` over HTTP, each as soon as its batch is composed."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from superbatch.cli.errors import Exit
from superbatch.cli.logs import Connect, add_log_options, add_shard_options, open_log, row_reader
from superbatch.cli.progress import ProgressLine

HELP = """Serve the batches of a running job as WebDataset tars, over HTTP, for `pipe:curl` URLs.

    superbatch serve-tars JOB --world-size 8 --port 8700 --num-batches 1000
        prints the --train-data of 1,000 batches; each request waits until its batch is composed

The tars are those of `superbatch export-tars`, byte for byte. The address holds a secret made from the token; who knows
it can read the pictures of the job. It stays the same when this command is started again.
"""

NUM_READERS = 4


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Describe `serve-tars`."""
    add_log_options(parser)
    add_shard_options(parser)
    parser.add_argument("--num-batches", type=int, required=True, metavar="N", help="batches to be read")
    parser.add_argument("--from-seq", type=int, default=0, metavar="S", help="first of them (0)")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1); 0.0.0.0 for other machines")
    parser.add_argument("--public-host", metavar="NAME", help="name of this machine as the trainers see it (HOST)")
    parser.add_argument("--port", type=int, default=8700, help="where to listen (8700); 0 for a free port")
    parser.add_argument("--hold-s", type=float, default=300.0, metavar="S", help="longest wait of one request (300)")
    parser.set_defaults(run_log=run_serve_tars)


def run_serve_tars(options: argparse.Namespace, connect: Connect) -> Exit:
    """Serve until interrupted."""
    from superbatch.webdataset.composed_batches import ComposedBatches
    from superbatch.webdataset.export import check_image_text
    from superbatch.webdataset.layout import TarLayout
    from superbatch.webdataset.tar_server import ServedTars, TarServer, curl_url, path_secret

    logging.basicConfig(level=logging.WARNING, format="superbatch: %(message)s")
    with open_log(options, connect) as log:
        table, b = log.shard_table(), log.manifest().policy.b
        check_image_text(table)
        readers = [row_reader(options, log, table) for _ in range(NUM_READERS)]
    layout = TarLayout(b, options.world_size, options.accumulation)
    indices = layout.tar_indices(options.from_seq, options.from_seq + options.num_batches)
    secret = path_secret("" if options.prefix is not None else connect().token, options.job)
    batches = ComposedBatches(lambda state: open_log(options, connect, state))
    line = ProgressLine(sys.stdout)
    served = Served(indices, line)
    tars = ServedTars(batches, layout, readers, with_metadata=options.metadata)
    with TarServer(
        tars, secret=secret, host=options.host, port=options.port, hold_s=options.hold_s, on_served=served.add
    ) as server:
        url = curl_url(server.address(indices, host=options.public_host))
        print(f"--train-data {quoted(url)} --dataset-type webdataset \\")
        print(f"    --train-num-samples {options.num_batches * b} --batch-size {layout.rows_per_tar}", end="")
        print(f" --accum-freq {layout.accumulation}" if layout.accumulation > 1 else "", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            line.end()
        finally:
            batches.close()
    return Exit.OK


def quoted(url: str) -> str:
    """Return a URL as one word of a shell, in single quotes."""
    return "'" + url.replace("'", "'\\''") + "'"


class Served:
    """Counts what was served, and shows it."""

    def __init__(self, indices: Sequence[int], line: ProgressLine) -> None:
        self._indices, self._line = indices, line
        self._seen: set[int] = set()
        self._num_bytes = 0

    def add(self, tar_index: int, length: int) -> None:
        """Count one tar that was sent whole."""
        self._seen.add(tar_index)
        self._num_bytes += length
        num_there = f"{len(self._seen):,} of {len(self._indices):,} tars, {self._num_bytes / 1e6:,.1f} MB"
        self._line.show("serving", num_there)
