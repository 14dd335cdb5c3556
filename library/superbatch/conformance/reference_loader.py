"""A loader without torch that the kit must find correct, and an example of what a loader under test does.

    superbatch verify-loader -- python -m superbatch.conformance.reference_loader

It reads every row with its uid checked, trains nothing, and holds as many batches ahead as its workers would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from superbatch.conformance.trace import Trace
from superbatch.formats.shards import ShardTable
from superbatch.log import BatchLog, LogBatch
from superbatch.reading import ExampleReader


def train(trace: Trace) -> None:
    """Go through the log from the saved state, or from its start, as one rank of a trainer."""
    assert trace.url is not None
    assert trace.job is not None
    state = trace.state()
    with BatchLog(
        trace.url,
        trace.job,
        token=trace.token,
        state=state,
        read_ahead=3 * trace.num_workers,
        world_size=trace.world_size,
        accumulation=trace.accumulation,
    ) as log:
        reader, table = ExampleReader(log.roots(), check_uids=True), log.shard_table()
        if trace.rank == 0:
            log.register(
                "reference",
                world_size=trace.world_size,
                accumulation=trace.accumulation,
                rewind=state is not None,
            )
        for batch in _loaded_ahead(log):
            _train_on(batch, trace, reader, table)
            trace.save_state(log.state_at(batch.seq + 1))
            if trace.rank == 0:
                log.progress(trained_seq=batch.seq + 1, durable_seq=batch.seq + 1)
            if trace.is_finished:
                return


def _loaded_ahead(log: BatchLog) -> Iterator[LogBatch]:
    """Yield the batches of the log, with read_ahead later ones taken from it already."""
    ahead: deque[LogBatch] = deque()
    for batch in log:
        ahead.append(batch)
        if len(ahead) > log.read_ahead:
            yield ahead.popleft()
    yield from ahead


def _train_on(batch: LogBatch, trace: Trace, reader: ExampleReader, table: ShardTable) -> None:
    """Read and trace the rank's rows of one batch, micro-step by micro-step."""
    for micro in range(trace.accumulation):
        rows = batch.slice(trace.rank, world_size=trace.world_size, accumulation=trace.accumulation, micro=micro)
        uids = [example.uid for example in reader.read_rows(rows, table)]
        trace.step(batch.seq, uids, micro=micro if trace.accumulation > 1 else None)


if __name__ == "__main__":
    train(Trace.from_environment())
