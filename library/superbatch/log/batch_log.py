"""BatchLog: the batches of a job, exact and in order, each proven before it is handed out."""

from __future__ import annotations

import math
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import NoReturn, Self, Unpack

import httpx
from pyarrow import fs

from superbatch.formats.errors import CorruptFile, InvalidInput, LogStalled
from superbatch.formats.manifest import Manifest, Revoked
from superbatch.formats.shards import ShardTable
from superbatch.formats.slices import slot_range
from superbatch.log.back_off import NUM_ATTEMPTS
from superbatch.log.batch import LogBatch
from superbatch.log.checkpoints import PushedCheckpoint, WeightsFile
from superbatch.log.cursor import Cursor, LogState, checked_state
from superbatch.log.follower import SegmentFollower
from superbatch.log.list_cache import ListCache
from superbatch.log.list_fetcher import fetch_list
from superbatch.log.options import LogOptions
from superbatch.log.prefix_source import PrefixSource
from superbatch.log.push import Place, push_weights
from superbatch.log.read_ahead import ListReadAhead, ProvenList
from superbatch.log.reports import Consumer, Counts, Reporter, Role
from superbatch.log.service_client import ServiceClient
from superbatch.log.service_source import ServiceSource, fetch_local_roots
from superbatch.log.source import LogSource, fetch_shard_table
from superbatch.log.withdrawals import OnRevoked, Withdrawals

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class BatchLog:
    """Iterates over the batches of a job from a saved state, or from its start, to its end; blocks until each is there.

    A thread fetches and proves the next lists meanwhile; it belongs to the process that opened the log, so a forked
    worker opens a log of its own. Iteration stops after the last batch of a job that completed. It raises LogEnded
    after the last one of a job that failed or was cancelled, HistoryChanged (409), BehindRetention (410),
    DigestMismatch when a list or the chain of digests is wrong, ServiceError when the service refuses,
    ServiceUnreachable when it stays silent, LogStalled when no batch came within idle_limit_s, RevokedBatch when a
    batch was withdrawn: each at the batch that it keeps from being handed out. After any of them a new BatchLog may be
    opened from `state()`. A registered trainer stays registered until `close()`: a thread repeats the last report.

    Args:
        url: address of the service.
        job: id of the job.
        token: bearer token.
        history_id: history to insist on; None for the one of `state`, or else the current one.
        state: what `state()` returned; None for the start of the log.
        cache_dir: folder in which lists are kept; None for none. All ranks of a machine may share it.
        cache_bytes: size of that folder.
        read_ahead: batches that the trainer asks for ahead of the one being trained, as `register` reports it (a torch
            loader: workers * (prefetch_factor + 1)).
        lists_ahead: lists fetched ahead, at least 1. lists_ahead_bytes: their size; one is kept however large it is.
        wait_s: length of a long poll.
        idle_limit_s: longest wait for one batch; None for no limit.
        num_attempts: tries per request, about two minutes in all by default.
        timeout_s: longest silence of the service on an open connection.
        on_revoked: "skip" steps over withdrawn batches; it needs world_size 1, or `skipped`, so that ranks stay in
            step.
        skipped: the batches to step over: what rank 0 got from `withdrawn()` and gave to every rank. A batch that is
            withdrawn beside them raises.
        world_size: number of ranks, checked at once against b of the job; None where it is not known yet.
        accumulation: micro-steps per optimizer step, checked with it.
        client: an httpx client with proxies or certificates of your own.
        source: where to read instead of at `url` (see `from_prefix`); nothing can be reported there.
        ending: set when the log is closed, so that a `source` of your own may end its pauses with it.
        rng, sleep, clock: jitter, pauses and monotonic time.
    Raises:
        InvalidInput: a state that is none, an address that is none, b that world_size * accumulation does not divide,
            "skip" on several ranks without `skipped`.
        HistoryChanged: a state of another job or history.
    """

    def __init__(
        self,
        url: str,
        job: str,
        *,
        token: str | None = None,
        history_id: str | None = None,
        state: Mapping[str, object] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int = 256 << 20,
        read_ahead: int = 0,
        lists_ahead: int = 4,
        lists_ahead_bytes: int = 64 << 20,
        wait_s: float = 20.0,
        idle_limit_s: float | None = None,
        num_attempts: int = NUM_ATTEMPTS,
        timeout_s: float = 30.0,
        on_revoked: OnRevoked = "raise",
        skipped: Iterable[Revoked] | None = None,
        world_size: int | None = None,
        accumulation: int = 1,
        client: httpx.Client | None = None,
        source: LogSource | None = None,
        ending: threading.Event | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job = _checked_name(job, what="job")
        self.read_ahead = read_ahead
        self._process_id = os.getpid()
        self._cursor: Cursor | None = None
        if state is not None:
            self._cursor = Cursor(checked_state(state, job=job, history_id=history_id))
            history_id = self._cursor.history_id
        self._ending = threading.Event() if ending is None else ending
        sleep = self._ending.wait if sleep is None else sleep
        self._service: ServiceClient | None = None
        if source is None:
            self._service = ServiceClient(
                url, token=token, client=client, num_attempts=num_attempts, timeout_s=timeout_s, rng=rng, sleep=sleep
            )
            source = ServiceSource(self._service, job)
        self._source = source
        self._clock = clock
        self._wait_s = wait_s
        self._idle_limit_s = idle_limit_s
        self._cache = None if cache_dir is None else ListCache(cache_dir, max_bytes=cache_bytes)
        self._withdrawals = Withdrawals(on_revoked=on_revoked, skipped=skipped, world_size=world_size)
        self._follower = SegmentFollower(source, job, history_id=history_id, sleep=sleep, clock=clock)
        self._lists = ListReadAhead(
            self._follower,
            partial(fetch_list, source=source, cache=self._cache),
            wait_s=wait_s,
            max_lists=lists_ahead,
            max_bytes=lists_ahead_bytes,
        )
        weakref.finalize(self, self._lists.close)
        self._open: ProvenList | None = None
        self._is_whole = False
        self._reporter: Reporter | None = None
        self.world_size = world_size
        self.accumulation = accumulation
        if world_size is not None:
            self._check_divides(world_size, accumulation)

    @classmethod
    def from_prefix(
        cls,
        uri: str | os.PathLike[str],
        job: str | None = None,
        *,
        filesystem: fs.FileSystem | None = None,
        **options: Unpack[LogOptions],
    ) -> Self:
        """Open the log that lies below a prefix of a folder or bucket, with no path to the service.

        Everything is proven as it is from the service. Nothing can be reported from here: such a trainer gives no
        credit and pushes no checkpoints, and withdrawn batches are not seen; hand them in as `skipped`.

        Args:
            uri: the folder of log/ and lists/, <store>/jobs/<job>/<history_id>: an absolute path, file://, s3://, gs://.
            job: id of the job; None for the one whose log it is, which must have begun.
            filesystem: a pyarrow filesystem with credentials or an endpoint of its own, inside which `uri` is a path.
            options: as BatchLog takes them.
        Raises:
            InvalidInput: no such place, or no log there and no job named.
            HistoryChanged: a state of another job or history.
        """
        ending = threading.Event()
        source = PrefixSource(
            uri,
            filesystem=filesystem,
            num_attempts=options.get("num_attempts", NUM_ATTEMPTS),
            sleep=ending.wait,
        )
        if job is None:
            head = source.head()
            if head is None:
                raise InvalidInput(
                    f"a log's prefix must hold log/head.json; got none in {os.fspath(uri)!r}. "
                    "Give <store>/jobs/<job>/<history_id>, or name the job to wait for one that has not begun."
                )
            job = head.job
        return cls(os.fspath(uri), job, source=source, ending=ending, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread that reads ahead, and close the connections; in a forked process, do nothing."""
        if self._process_id == os.getpid():
            self._ending.set()
            if self._reporter is not None:
                self._reporter.close()
            self._lists.close()
            self._source.close()

    def __iter__(self) -> Iterator[LogBatch]:
        return self

    def __next__(self) -> LogBatch:
        cursor = self._position()
        if self._is_whole:
            raise StopIteration
        while True:
            if self._open is None:
                self._open = self._lists.take(cursor, idle_limit_s=self._idle_limit_s, keep_alive=self._require_alive)
            if self._open is None:
                self._is_whole = True
                raise StopIteration
            batch = self._stepped(self._open, cursor)
            if batch is not None:
                return batch

    def __reduce__(self) -> NoReturn:
        raise InvalidInput(
            "a log cannot be sent to another process: its thread and connections stay in this one; "
            f"got one of job {self.job}. Send state(), and open a log there."
        )

    def state(self) -> LogState:
        """Return what resumes at the next batch: job, history_id, next_seq, log_digest.

        Plain JSON, the same on all ranks.
        """
        return self._position().state()

    def state_at(self, next_seq: int) -> LogState:
        """Return what resumes at `next_seq`: the state to save once batches before it are trained.

        A loader asks for batches ahead of the one being trained, so `state()` would lose those in between.

        Args:
            next_seq: from the last reported durable_seq (or the state this log was opened with) to `state()`'s.
        Raises:
            InvalidInput: a seq that was not reached, or whose digest is forgotten.
        """
        return self._position().state_at(next_seq)

    def manifest(self) -> Manifest:
        """Return the newest manifest seen."""
        return self._head(0 if self._cursor is None else self._cursor.next_seq)

    def withdrawn(self) -> tuple[Revoked, ...]:
        """Return all published batches from here on that are withdrawn by now; asks the source anew, page by page.

        Rank 0 calls it, hands it to the other ranks, and all of them open their logs with it as `skipped`.

        Raises:
            LogError, CorruptFile: as iterating does.
        """
        return self._follower.withdrawn(self._position().next_seq)

    def shard_table(self) -> ShardTable:
        """Return the shard table of the job's dataset.

        Raises:
            CorruptFile: it is not that of the manifest's dataset.
        """
        return fetch_shard_table(self._source, self.manifest())

    def roots(self) -> dict[str, str]:
        """Return the local path per root, for those roots that the service keeps in a local folder."""
        return fetch_local_roots(self._require_service())

    def register(
        self,
        name: str,
        *,
        role: Role = "learner",
        world_size: int | None = None,
        accumulation: int | None = None,
        checkpoint_every: int | None = None,
        ttl_s: float = 120.0,
        rewind: bool = False,
    ) -> None:
        """Register this trainer by its first report; call it on rank 0 only.

        It says that everything before the state this log was opened with is trained and saved.

        Args:
            name: stable over restarts; the same name takes over.
            role: `learner`, or `reader`, which only pins retention.
            world_size: ranks; None for what the log was opened with, or else 1.
            accumulation: micro-steps per optimizer step; None for what the log was opened with.
            checkpoint_every: batches between pushed checkpoints; None where none are pushed.
            ttl_s: seconds after which production pauses when this process is gone. As long as it lives and the log is
                open, a thread repeats the last report, however long a step, a wait or an evaluation takes.
            rewind: the trainer starts again after a crash, from its last checkpoint or, without one, from the start.
        Raises:
            InvalidInput: a log that is read from files.
            ServiceError: sizes that cannot be served (422, with the numbers), another learner (409).
        """
        service = self._require_service()
        ranks = (self.world_size or 1) if world_size is None else world_size
        steps = self.accumulation if accumulation is None else accumulation
        consumer = Consumer(
            _checked_name(name, what="consumer"), role, ranks, steps, self.read_ahead, checkpoint_every, ttl_s
        )
        if self._reporter is not None:
            self._reporter.close()
        self._reporter = Reporter(service, self.job, consumer)
        weakref.finalize(self, self._reporter.close)
        start_seq = self._position().start_seq
        self.progress(trained_seq=start_seq, durable_seq=start_seq, rewind=rewind)

    def progress(
        self, *, trained_seq: int, durable_seq: int, delivered_seq: int | None = None, rewind: bool = False
    ) -> None:
        """Report progress; call it on rank 0 only, as often as liked.

        Args:
            trained_seq: batches trained; gives credit for new ones.
            durable_seq: batches whose effect is saved in a trainer checkpoint; frees what lies before.
            delivered_seq: batches handed to the training loop; None for all that this log handed out.
            rewind: the trainer went back to an earlier trained_seq.
        Raises:
            InvalidInput: not registered, counts out of order, or a trained_seq that this log has not passed.
            ServiceError, HistoryChanged, ServiceUnreachable: the report was refused or could not be delivered.
        """
        if self._reporter is None:
            raise InvalidInput(
                f"a trainer must register before it reports; job {self.job}. Call register(name, ...) once."
            )
        cursor = self._position()
        counts = Counts(cursor.next_seq if delivered_seq is None else delivered_seq, trained_seq, durable_seq)
        skipped = self._withdrawals.own_from(durable_seq)
        self._reporter.report(counts, cursor.digest_at(trained_seq), rewind=rewind, skipped=skipped)
        cursor.forget_before(durable_seq)

    def skip_batch(self, seq: int, reason: str) -> None:
        """Step over one whole batch; call it on every rank, at the same step.

        Ranks agree first that the batch cannot be used (one of them could not read a row: one all-reduce of a flag). On
        rank 0, where the trainer is registered, the skip is reported at once, so that the manifest lists the batch as
        withdrawn: `withdrawn()` names it after a restart, and a log that was not told raises. A batch that was handed
        out already stays handed out; it counts as trained when the trainer goes on after it.

        Args:
            seq: the batch; not before the last reported durable_seq.
            reason: why, in a few words; people read it in the manifest.
        Raises:
            InvalidInput: a seq that is saved already, no reason.
            ServiceError, HistoryChanged, ServiceUnreachable: the report was refused or could not be delivered.
        """
        oldest_seq = self._position().oldest_seq
        if seq < oldest_seq or not reason.strip():
            raise InvalidInput(
                f"a batch is skipped with a reason, before its effect is saved; got seq {seq}, reason {reason!r}, "
                f"saved up to {oldest_seq} (job {self.job}). Go back to an older trainer checkpoint to skip it."
            )
        self._withdrawals.skip(seq, reason)
        if self._reporter is not None:
            self._reporter.repeat(skipped=self._withdrawals.own_from(oldest_seq))

    def push_checkpoint(
        self,
        weights: WeightsFile,
        *,
        trained_seq: int,
        root: str | None = None,
        root_path: str | os.PathLike[str] | None = None,
        key: str | None = None,
    ) -> PushedCheckpoint:
        """Hand the learner's weights to the service; rank 0 only.

        They go through a root that both can reach where root, root_path and key are given, else by an upload that goes
        on where it broke off.

        Args:
            weights: a safetensors file, as bytes (`superbatch.checkpoints.learner_weights(model)`) or by path; a path
                that is `key` in the root already is not copied.
            trained_seq: batches of this job already in these weights.
            root: name of the root. root_path: where it is mounted here.
            key: path inside the root, of its own for each checkpoint.
        Raises:
            InvalidInput: no safetensors file, a key that holds other bytes or could leave its root.
            ServiceError, HistoryChanged, ServiceUnreachable: refused or not delivered; what is in the root or was
                uploaded stays, and the same push may be repeated.
        """
        place = Place.of(root, root_path, key)
        return push_weights(self._require_service(), self.job, weights, trained_seq=trained_seq, place=place)

    def _require_alive(self) -> float:
        return math.inf if self._reporter is None else self._reporter.require_alive()

    def _require_own_process(self) -> None:
        if self._process_id != os.getpid():
            raise InvalidInput(
                f"a log belongs to the process that opened it, {self._process_id}; got a call in process "
                f"{os.getpid()} (job {self.job}). Open a log in each worker, from the state of this one."
            )

    def _require_service(self) -> ServiceClient:
        self._require_own_process()
        if self._service is None:
            raise InvalidInput(
                f"a log that is read from files can neither report nor push, and knows no roots; job {self.job}. "
                "Open it with BatchLog(url, job) where the service can be reached."
            )
        return self._service

    def _check_divides(self, world_size: int, accumulation: int) -> None:
        slot_range(self.manifest().policy.b, 0, world_size=world_size, accumulation=accumulation)

    def _head(self, next_seq: int) -> Manifest:
        self._require_own_process()
        stop_s = math.inf if self._idle_limit_s is None else self._clock() + self._idle_limit_s

        def hold() -> float:
            if self._ending.is_set():
                raise InvalidInput(f"the log of job {self.job} was closed while its beginning was waited for.")
            left_s = stop_s - self._clock()
            if left_s <= 0:
                raise LogStalled(
                    f"a log must begin within the idle limit of {self._idle_limit_s} s; got nothing from the source of "
                    f"job {self.job}. Look whether the job runs, and whether the address or prefix is its own."
                )
            return min(self._wait_s, left_s)

        return self._follower.head(next_seq, hold=hold)

    def _position(self) -> Cursor:
        self._require_own_process()
        if self._cursor is None:
            self._cursor = Cursor.at_start(self.job, self._head(0).history_id)
        return self._cursor

    def _stepped(self, proven: ProvenList, cursor: Cursor) -> LogBatch | None:
        """Return the batch at the cursor, None where it is stepped over; the cursor moves on."""
        segment, reader, seq = proven.segment, proven.reader, cursor.next_seq
        is_skipped = self._withdrawals.is_skipped(seq, self._follower.revoked())
        rows, b = None if is_skipped else reader.read(seq - reader.first_seq), self._head(seq).policy.b
        if rows is not None and rows.num_rows != b:
            raise CorruptFile(
                f"every batch must have the {b} rows that the manifest says; got {rows.num_rows} in batch {seq} "
                f"({segment.list_link}, job {self.job}). Look at what writes into the job's store."
            )
        log_digest = cursor.advance(reader.batch_digests[seq - reader.first_seq])
        if cursor.next_seq == segment.stop_seq:
            self._open = None
        return None if rows is None else LogBatch.of(segment, seq, rows=rows, log_digest=log_digest)


def _checked_name(name: str, *, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"a {what} name has letters, digits, '.', '_' and '-'; got {name!r}. Use the service's id.")
    return name
