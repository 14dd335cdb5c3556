"""BatchLog: the batches of a job, exact and in order, each proven before it is handed out."""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

from superbatch.formats.batch_list import BatchListReader
from superbatch.formats.errors import HistoryChanged, InvalidInput, RevokedBatch
from superbatch.formats.manifest import Manifest
from superbatch.formats.segments import Segment
from superbatch.formats.shards import ShardTable
from superbatch.log.batch import LogBatch
from superbatch.log.checkpoints import PushedCheckpoint, check_safetensors, place_checkpoint
from superbatch.log.cursor import Cursor, LogState, checked_state
from superbatch.log.dataset_links import fetch_local_roots, fetch_shard_table
from superbatch.log.follower import ManifestFollower
from superbatch.log.list_cache import ListCache
from superbatch.log.list_fetcher import fetch_list
from superbatch.log.reports import Consumer, Counts, Reporter, Role, post_checkpoint
from superbatch.log.service_client import ServiceClient

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class BatchLog:
    """Iterates over the batches of a job from a saved state, or from its start, to its end; blocks until each is there.

    Iteration stops after the last batch of a job that completed. It raises LogEnded after the last batch of one that
    failed or was cancelled, HistoryChanged (409), BehindRetention (410), DigestMismatch when a list or the chain of
    digests is wrong, ServiceError when the service refuses, ServiceUnreachable when it stays silent, LogStalled when no
    batch came within idle_limit_s, RevokedBatch when a batch was withdrawn. After any of them a new BatchLog may be
    opened from `state()`. While it waits, a registered trainer stays registered: the last report is repeated.

    Args:
        url: address of the service.
        job: id of the job.
        token: bearer token.
        history_id: history to insist on; None for the one of `state`, or else the current one.
        state: what `state()` returned; None for the start of the log.
        cache_dir: folder in which lists are kept; None for none. It may be shared.
        cache_bytes: size of that folder.
        read_ahead: batches that the trainer asks for ahead of the one being trained, as `register` reports it (a torch
            loader: workers * (prefetch_factor + 1)); nothing is fetched ahead here.
        wait_s: length of a long poll.
        idle_limit_s: longest wait for one batch; None for no limit.
        num_attempts: tries per request, about two minutes in all by default.
        timeout_s: longest silence of the service on an open connection.
        on_revoked: "skip" steps over withdrawn batches; every rank must do the same.
        client: an httpx client with proxies or certificates of your own.
        rng, sleep, clock: jitter, pauses and monotonic time.
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
        wait_s: float = 20.0,
        idle_limit_s: float | None = None,
        num_attempts: int = 12,
        timeout_s: float = 30.0,
        on_revoked: Literal["raise", "skip"] = "raise",
        client: httpx.Client | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job = _checked_name(job, what="job")
        self.read_ahead = read_ahead
        self._cursor: Cursor | None = None
        if state is not None:
            found = checked_state(state, job=job)
            if history_id not in (None, found["history_id"]):
                raise HistoryChanged(
                    f"a state can only resume its own history; got {found['history_id']!r} where "
                    f"{history_id!r} is wanted. "
                    "Start from a trainer checkpoint without a log state."
                )
            self._cursor = Cursor(found)
            history_id = found["history_id"]
        self._service = ServiceClient(
            url, token=token, client=client, num_attempts=num_attempts, timeout_s=timeout_s, rng=rng, sleep=sleep
        )
        self._follower = ManifestFollower(
            self._service,
            job,
            history_id=history_id,
            wait_s=wait_s,
            idle_limit_s=idle_limit_s,
            sleep=sleep,
            clock=clock,
            keep_alive=self._keep_alive,
        )
        self._clock = clock
        self._cache = None if cache_dir is None else ListCache(cache_dir, max_bytes=cache_bytes)
        self._on_revoked = on_revoked
        self._open: tuple[Segment, BatchListReader] | None = None
        self._reporter: Reporter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the service."""
        self._service.close()

    def __iter__(self) -> Iterator[LogBatch]:
        return self

    def __next__(self) -> LogBatch:
        cursor = self._position()
        while True:
            if self._open is None:
                self._open = self._next_open(cursor)
            segment, reader = self._open
            seq = cursor.next_seq
            reason = self._follower.revoked_reason(seq)
            if reason is not None and self._on_revoked == "raise":
                raise RevokedBatch(seq, reason)
            rows = reader.read(seq - reader.first_seq)
            log_digest = cursor.advance(reader.batch_digests[seq - reader.first_seq])
            if cursor.next_seq == segment.stop_seq:
                self._open = None
            if reason is None:
                return LogBatch.of(segment, seq, rows=rows, log_digest=log_digest)

    def state(self) -> LogState:
        """Return what resumes at the next batch: job, history_id, next_seq, log_digest.

        Plain JSON, the same on all ranks.
        """
        return self._position().state()

    def manifest(self) -> Manifest:
        """Return the newest manifest seen."""
        return self._follower.head(0 if self._cursor is None else self._cursor.next_seq)

    def shard_table(self) -> ShardTable:
        """Return the shard table of the job's dataset.

        Raises:
            CorruptFile: it is not that of the manifest's dataset.
        """
        return fetch_shard_table(self._service, self.manifest(), base=self._follower.link)

    def roots(self) -> dict[str, str]:
        """Return the local path per root, for those roots that the service keeps in a local folder."""
        return fetch_local_roots(self._service)

    def register(
        self,
        name: str,
        *,
        role: Role = "learner",
        world_size: int = 1,
        accumulation: int = 1,
        checkpoint_every: int | None = None,
        ttl_s: float = 120.0,
        rewind: bool = False,
    ) -> None:
        """Register this trainer by its first report; call it on rank 0 only.

        It says that everything before the state this log was opened with is trained and saved.

        Args:
            name: stable over restarts; the same name takes over.
            role: `learner`, or `reader`, which only pins retention.
            world_size: ranks.
            accumulation: micro-steps per optimizer step.
            checkpoint_every: batches between pushed checkpoints; None where none are pushed.
            ttl_s: seconds without a report after which production pauses; longer than the longest step. Waiting for a
                batch does not count: the log repeats the last report then.
            rewind: the trainer starts again after a crash, from its last checkpoint or, without one, from the start.
        Raises:
            ServiceError: sizes that cannot be served (422, with the numbers), another learner (409).
        """
        consumer = Consumer(
            _checked_name(name, what="consumer"),
            role,
            world_size,
            accumulation,
            self.read_ahead,
            checkpoint_every,
            ttl_s,
        )
        self._reporter = Reporter(self._service, self.job, consumer, clock=self._clock)
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
        self._reporter.report(counts, cursor.digest_at(trained_seq), rewind=rewind)
        cursor.forget_before(durable_seq)

    def push_checkpoint(
        self,
        weights: bytes | str | os.PathLike[str],
        *,
        root: str,
        root_path: str | os.PathLike[str],
        key: str,
        trained_seq: int,
    ) -> PushedCheckpoint:
        """Hand the learner's weights to the service through a root that both can reach; rank 0 only.

        Args:
            weights: a safetensors file, as bytes or by path; a path that is `key` in the root already is not copied.
            root: name of the root. root_path: where it is mounted here.
            key: path inside the root, of its own for each checkpoint.
            trained_seq: batches of this job already in these weights.
        Raises:
            InvalidInput: no safetensors file, a key that holds other bytes or could leave its root.
            ServiceError, HistoryChanged, ServiceUnreachable: refused or not delivered; the file stays in the root and
                may be pushed again.
        """
        content = weights if isinstance(weights, bytes) else Path(weights).read_bytes()
        check_safetensors(content, where=f"checkpoint {key}")
        sha256_hex = place_checkpoint(content, root_path, key=key)
        return post_checkpoint(
            self._service, self.job, trained_seq=trained_seq, root=root, key=key, sha256_hex=sha256_hex
        )

    def _keep_alive(self) -> float:
        return math.inf if self._reporter is None else self._reporter.keep_alive()

    def _position(self) -> Cursor:
        if self._cursor is None:
            self._cursor = Cursor.at_start(self.job, self._follower.head(0).history_id)
        return self._cursor

    def _next_open(self, cursor: Cursor) -> tuple[Segment, BatchListReader]:
        segment = self._follower.next_segment(cursor.next_seq)
        if segment is None:
            raise StopIteration
        fingerprint = self._follower.head(cursor.next_seq).dataset_fingerprint
        reader = fetch_list(
            segment, client=self._service, base=self._follower.link, cache=self._cache, fingerprint=fingerprint
        )
        rest = slice(cursor.next_seq - reader.first_seq, segment.stop_seq - reader.first_seq)
        cursor.check(segment, reader.batch_digests[rest])
        return segment, reader


def _checked_name(name: str, *, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"a {what} name has letters, digits, '.', '_' and '-'; got {name!r}. Use the service's id.")
    return name
