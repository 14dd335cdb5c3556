"""A correct loader in a few lines, and loaders that make the mistakes of real ones, each wrong in one thing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from superbatch.conformance.trace import Trace
from superbatch.formats.errors import SuperbatchError
from superbatch.formats.shards import ShardTable
from superbatch.log import BatchLog, LogBatch
from superbatch.reading import ExampleReader


def opened(trace: Trace, state: dict[str, object] | None = None) -> BatchLog:
    assert trace.url is not None
    assert trace.job is not None
    return BatchLog(trace.url, trace.job, token=trace.token, state=state or trace.state(), wait_s=1.0)


def uids_of(batch: LogBatch, trace: Trace, micro: int | None = None) -> list[bytes]:
    rows = batch.slice(trace.rank, world_size=trace.world_size, accumulation=trace.accumulation, micro=micro)
    uids: list[bytes] = rows.column("uid").to_pylist()
    return uids


def plain(trace: Trace) -> None:
    """The whole of a correct loader, but that it reads no pictures."""
    with opened(trace) as log:
        for batch in log:
            for micro in range(trace.accumulation):
                trace.step(batch.seq, uids_of(batch, trace, micro), micro=micro)
            trace.save_state(log.state_at(batch.seq + 1))
            if trace.is_finished:
                return


def stepping(trace: Trace, log: BatchLog, steps: Iterator[tuple[int, list[bytes]]]) -> None:
    """Train these (seq, uids) and save the state after each."""
    for seq, uids in steps:
        trace.step(seq, uids)
        trace.save_state(log.state_at(seq + 1))
        if trace.is_finished:
            return


def shuffle_buffer(trace: Trace) -> None:
    """Rows pass through a buffer of three steps and leave it in random order."""

    def steps() -> Iterator[tuple[int, list[bytes]]]:
        rng, buffer, seq = random.Random(trace.rank), list[bytes](), first_seq
        for batch in log:
            buffer += uids_of(batch, trace)
            size = len(batch.rows) // trace.world_size
            if len(buffer) >= 3 * size:
                yield seq, [buffer.pop(rng.randrange(len(buffer))) for _ in range(size)]
                seq += 1
        while buffer:
            yield seq, [buffer.pop(rng.randrange(len(buffer))) for _ in range(size)]
            seq += 1

    with opened(trace) as log:
        first_seq = log.state()["next_seq"]
        stepping(trace, log, steps())


def round_robin(trace: Trace) -> None:
    """Whole batches go to ranks in turn, as where a sampler of batches is divided among processes."""
    with opened(trace) as log:
        first_seq = log.state()["next_seq"]
        own = islice(log, trace.rank, None, trace.world_size)
        stepping(trace, log, ((first_seq + n, batch.rows.column("uid").to_pylist()) for n, batch in enumerate(own)))


def batches_dealt_out(trace: Trace) -> None:
    """Ready slices go to ranks in turn once more, each under its own seq."""
    with opened(trace) as log:
        own = islice(log, trace.rank, None, trace.world_size)
        stepping(trace, log, ((batch.seq, uids_of(batch, trace)) for batch in own))


def dropped_row(trace: Trace) -> None:
    """Rows are a stream that is cut into steps; a row that cannot be read is left out, and the next one moves up."""

    def steps() -> Iterator[tuple[int, list[bytes]]]:
        stream, seq = list[bytes](), first_seq
        for batch in log:
            rows = batch.slice(trace.rank, world_size=trace.world_size)
            for row in range(rows.num_rows):
                try:
                    stream.append(reader.read_rows(rows.slice(row, 1), table)[0].uid)
                except Exception:
                    continue
            while len(stream) >= rows.num_rows:
                yield seq, stream[: rows.num_rows]
                del stream[: rows.num_rows]
                seq += 1

    with opened(trace) as log:
        first_seq, (reader, table) = log.state()["next_seq"], reading(log)
        stepping(trace, log, steps())


def short_batch(trace: Trace) -> None:
    """A row that cannot be read is left out of its step."""
    with opened(trace) as log:
        reader, table = reading(log)
        stepping(trace, log, ((batch.seq, readable(batch, trace, reader, table)) for batch in log))


def readable(batch: LogBatch, trace: Trace, reader: ExampleReader, table: ShardTable) -> list[bytes]:
    uids = []
    rows = batch.slice(trace.rank, world_size=trace.world_size)
    for row in range(rows.num_rows):
        try:
            uids.append(reader.read_rows(rows.slice(row, 1), table)[0].uid)
        except Exception:
            continue
    return uids


def reading(log: BatchLog) -> tuple[ExampleReader, ShardTable]:
    return ExampleReader(log.roots(), check_uids=True, num_attempts=1), log.shard_table()


def unchecked(trace: Trace) -> None:
    """Pictures are read but neither decoded nor checked."""
    with opened(trace) as log:
        reader, table = ExampleReader(log.roots()), log.shard_table()

        def steps() -> Iterator[tuple[int, list[bytes]]]:
            for batch in log:
                rows = batch.slice(trace.rank, world_size=trace.world_size)
                yield batch.seq, [example.uid for example in reader.read_rows(rows, table)]

        stepping(trace, log, steps())


def skipping_alone(trace: Trace) -> None:
    """The rank with the bad row skips the batch; the others train it."""
    with opened(trace) as log:
        reader, table = reading(log)

        def steps() -> Iterator[tuple[int, list[bytes]]]:
            for batch in log:
                uids = readable(batch, trace, reader, table)
                if len(uids) == len(batch.rows) // trace.world_size:
                    yield batch.seq, uids

        stepping(trace, log, steps())


def double_sharding(trace: Trace) -> None:
    """A rank's slice passes through a sampler that divides it among the ranks."""
    with opened(trace) as log:
        stepping(trace, log, ((batch.seq, uids_of(batch, trace)[trace.rank :: trace.world_size]) for batch in log))


def not_sharded(trace: Trace) -> None:
    """Every rank trains the whole batch."""
    with opened(trace) as log:
        stepping(trace, log, ((batch.seq, batch.rows.column("uid").to_pylist()) for batch in log))


def strided(trace: Trace) -> None:
    """Rank r takes slots r, r + R, ...: the union is right, the slices are not."""
    with opened(trace) as log:
        stepping(
            trace,
            log,
            ((batch.seq, batch.rows.column("uid").to_pylist()[trace.rank :: trace.world_size]) for batch in log),
        )


def shuffled_rows(trace: Trace) -> None:
    """The right rows in another order."""
    with opened(trace) as log:
        stepping(trace, log, ((batch.seq, uids_of(batch, trace)[::-1]) for batch in log))


def state_per_rank(trace: Trace) -> None:
    """Each rank keeps a state of its own; a rank that has none begins at the start."""
    assert trace.state_file is not None
    own = trace.state_file.with_name(f"state-of-rank-{trace.rank}.json")
    start = json.loads(own.read_text()) if own.exists() else None
    fresh = Trace(trace.rank, trace.world_size, trace.url, trace.job, trace.token)
    with opened(fresh, start) as log:
        for batch in log:
            trace.step(batch.seq, uids_of(batch, trace))
            own.write_text(json.dumps(log.state_at(batch.seq + 1)))
            trace.save_state(log.state_at(batch.seq + 1))
            if trace.is_finished:
                return


def repeated_step(trace: Trace) -> None:
    """After a resume, the last trained batch is trained again: the state is saved before the step is."""
    state = trace.state()
    with opened(Trace(url=trace.url, job=trace.job, token=trace.token)) as log:
        wanted = (batch for batch in log if state is None or batch.seq >= int(str(state["next_seq"])) - 1)
        stepping(trace, log, ((batch.seq, uids_of(batch, trace)) for batch in wanted))


def read_ahead_state(trace: Trace) -> None:
    """The saved state is the log's own position, three batches beyond what was trained."""
    with opened(trace) as log:
        ahead: list[LogBatch] = []
        for batch in log:
            ahead.append(batch)
            if len(ahead) > 3:
                trained = ahead.pop(0)
                trace.step(trained.seq, uids_of(trained, trace))
                trace.save_state(log.state())
                if trace.is_finished:
                    return


def uneven_ranks(trace: Trace) -> None:
    """The last rank loses its last step, as a loader that drops a short last batch does."""
    with opened(trace) as log:
        last = trace.rank == trace.world_size - 1
        stepping(trace, log, ((b.seq, uids_of(b, trace)) for b in log if not (last and b.seq == 11)))


def micro_of_batch(trace: Trace) -> None:
    """Micro-step m is the m-th part of the batch, divided among ranks, and not of the rank's slice."""
    with opened(trace) as log:
        for batch in log:
            uids = batch.rows.column("uid").to_pylist()
            part = len(uids) // trace.accumulation
            share = part // trace.world_size
            for micro in range(trace.accumulation):
                start = micro * part + trace.rank * share
                trace.step(batch.seq, uids[start : start + share], micro=micro)
            trace.save_state(log.state_at(batch.seq + 1))
            if trace.is_finished:
                return


def any_state(trace: Trace) -> None:
    """Only the position of a state is looked at, not whose it is."""
    state = trace.state() or {"next_seq": 0}
    with opened(Trace(url=trace.url, job=trace.job, token=trace.token)) as log:
        stepping(trace, log, ((b.seq, uids_of(b, trace)) for b in log if b.seq >= int(str(state["next_seq"]))))


def impatient(trace: Trace) -> None:
    """A shard that is missing for a moment ends the run."""
    with opened(trace) as log:
        reader, table = ExampleReader(log.roots(), num_attempts=1), log.shard_table()
        for batch in log:
            reader.read_rows(batch.rows, table)
            trace.step(batch.seq, uids_of(batch, trace))
            trace.save_state(log.state_at(batch.seq + 1))


def never_rewinding(trace: Trace) -> None:
    """A trainer that went back does not say so."""
    with opened(trace) as log:
        if trace.rank == 0:
            log.register("trainer")
        for batch in log:
            trace.step(batch.seq, uids_of(batch, trace))
            trace.save_state(log.state_at(batch.seq + 1))
            if trace.rank == 0:
                log.progress(trained_seq=batch.seq + 1, durable_seq=0)
            if trace.is_finished:
                return


def more_in_the_state(trace: Trace) -> None:
    """The state holds more than its four fields."""
    with opened(trace) as log:
        for batch in log:
            trace.step(batch.seq, uids_of(batch, trace))
            trace.save_state({**log.state_at(batch.seq + 1), "samples_seen_by_rank": 7})
            if trace.is_finished:
                return


def other_rows(trace: Trace) -> None:
    """The uids are not those of the log."""
    with opened(trace) as log:
        stepping(trace, log, ((batch.seq, [bytes(16)] * len(uids_of(batch, trace))) for batch in log))


def skipping_together(trace: Trace) -> None:
    """Every rank looks at the whole batch, so all skip it; rank 0 reports it."""
    with opened(trace) as log:
        reader, table = reading(log)
        if trace.rank == 0:
            log.register("trainer", world_size=trace.world_size)
        for batch in log:
            try:
                reader.read_rows(batch.rows, table)
            except SuperbatchError as error:
                log.skip_batch(batch.seq, str(error))
                continue
            trace.step(batch.seq, uids_of(batch, trace))
            trace.save_state(log.state_at(batch.seq + 1))
            if trace.rank == 0:
                log.progress(trained_seq=batch.seq + 1, durable_seq=batch.seq + 1)


def stepping_over_withdrawn(trace: Trace) -> None:
    """What is withdrawn when the run begins is stepped over on all ranks."""
    assert trace.url is not None
    assert trace.job is not None
    with opened(trace) as first:
        skipped = first.withdrawn()  # a trainer broadcasts that of rank 0
    with BatchLog(trace.url, trace.job, token=trace.token, state=trace.state(), skipped=skipped) as log:
        stepping(trace, log, ((batch.seq, uids_of(batch, trace)) for batch in log))


def skipping_in_silence(trace: Trace) -> None:
    """All ranks skip the batch, and nobody is told."""
    with opened(trace) as log:
        reader, table = reading(log)

        def steps() -> Iterator[tuple[int, list[bytes]]]:
            for batch in log:
                with suppress(SuperbatchError):
                    reader.read_rows(batch.rows, table)
                    yield batch.seq, uids_of(batch, trace)

        stepping(trace, log, steps())


SCRIPT = """
from tests.superbatch.conformance import loaders
from superbatch.conformance.trace import Trace
loaders.{name}(Trace.from_environment())
"""


def script_of(name: str, folder: Path) -> Path:
    """Write a program that runs one of these loaders as a process."""
    path = folder / f"{name}.py"
    path.write_text(SCRIPT.format(name=name))
    return path
