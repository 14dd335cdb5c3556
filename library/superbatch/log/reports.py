"""What a trainer tells the service: its progress by one idempotent PUT, and its checkpoints."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from superbatch.formats.canonical import JsonValue
from superbatch.formats.errors import HistoryChanged, InvalidInput, ServiceError, ServiceUnreachable
from superbatch.formats.json_fields import as_fields
from superbatch.log.checkpoints import PushedCheckpoint
from superbatch.log.service_client import ServiceClient

Role = Literal["learner", "reader"]
Skip = tuple[int, str]
"""A batch that the trainer steps over: its seq, and why."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A trainer as it registers.

    name: stable over restarts; the same name takes over.
    role: `learner` gives credit and checkpoints, a `reader` only pins retention.
    world_size, accumulation: ranks, and micro-steps per optimizer step; b must be divisible by their product.
    read_ahead: batches asked for ahead of the one being trained.
    checkpoint_every: batches between pushed checkpoints; None where none are pushed.
    ttl_s: seconds without a sign of life after which production pauses.
    """

    name: str
    role: Role
    world_size: int
    accumulation: int
    read_ahead: int
    checkpoint_every: int | None
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Counts:
    """The first seq not yet delivered, trained, saved in a trainer checkpoint."""

    delivered_seq: int
    trained_seq: int
    durable_seq: int

    def __post_init__(self) -> None:
        if not 0 <= self.durable_seq <= self.trained_seq <= self.delivered_seq:
            raise InvalidInput(
                "counts must satisfy 0 <= durable_seq <= trained_seq <= delivered_seq; got "
                f"{self.durable_seq}, {self.trained_seq}, {self.delivered_seq}. "
                "Report what is saved, trained, delivered."
            )


class Reporter:
    """Reports the progress of one trainer, and keeps its registration alive as long as its process lives.

    Production pauses when a trainer is silent for ttl_s. One that waits for its first batch has no progress to report
    through the whole index pass, nor has one that evaluates for an hour, so a thread repeats the last report whenever a
    third of the ttl has passed without one. A repetition never says `rewind`: checkpoints that were pushed since the
    report must not be orphaned by it.

    Args:
        client: the service.
        job: id of the job.
        consumer: the trainer as it registers.
    """

    def __init__(self, client: ServiceClient, job: str, consumer: Consumer) -> None:
        self._client = client
        self._job = job
        self._consumer = consumer
        self._sending = threading.Lock()
        """Reports go out one after the other: a late repetition of an old one would take progress back."""
        self._last: tuple[Counts, bytes, Sequence[Skip]] | None = None
        self._sent_s = 0.0
        self._refusal: ServiceError | HistoryChanged | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def report(self, counts: Counts, log_digest: bytes, *, rewind: bool = False, skipped: Sequence[Skip] = ()) -> None:
        """Report progress; the same report may be sent any number of times.

        Args:
            counts: the first seq not yet delivered, trained, saved.
            log_digest: log digest after the last trained batch.
            rewind: the trainer went back to counts.trained_seq.
            skipped: (seq, reason) of the batches that the trainer steps over.
        Raises:
            ServiceError: refused: sizes that cannot be served (422), another learner or another job (409).
            HistoryChanged, ServiceUnreachable: see ServiceClient.
        """
        with self._sending:
            self._send(counts, log_digest, rewind=rewind, skipped=skipped)
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._keep_alive, name="superbatch-alive", daemon=True)
                self._thread.start()

    def repeat(self, *, skipped: Sequence[Skip]) -> None:
        """Send the last report again, with these batches as skipped; nothing before the first report.

        Raises:
            ServiceError, HistoryChanged, ServiceUnreachable: as `report`.
        """
        if self._last is not None:
            counts, log_digest, _ = self._last
            self.report(counts, log_digest, skipped=skipped)

    def require_alive(self) -> float:
        """Return the seconds within which to ask again.

        Raises:
            ServiceError, HistoryChanged: a repetition of the last report was refused: another learner took over (409).
        """
        if self._refusal is not None:
            raise self._refusal
        return self._consumer.ttl_s / 3

    def close(self) -> None:
        """Repeat no report any more."""
        self._closing.set()

    def _send(
        self,
        counts: Counts,
        log_digest: bytes,
        *,
        skipped: Sequence[Skip],
        rewind: bool = False,
        num_attempts: int | None = None,
    ) -> None:
        sent_s = time.monotonic()
        body = _progress(self._consumer, counts, log_digest=log_digest, rewind=rewind, skipped=skipped)
        path = f"v1/jobs/{self._job}/consumers/{self._consumer.name}"
        self._client.send_json("PUT", path, body, num_attempts=num_attempts)
        self._last, self._sent_s = (counts, log_digest, skipped), sent_s

    def _keep_alive(self) -> None:
        """Send the last report again whenever a third of the ttl has passed; one try each, so that no report waits."""
        period_s = self._consumer.ttl_s / 3
        due_s = self._sent_s + period_s
        while not self._closing.wait(max(0.0, due_s - time.monotonic())):
            with self._sending:
                due_s = self._sent_s + period_s
                if due_s > time.monotonic():
                    continue
                assert self._last is not None, "the thread begins after the first report"
                counts, log_digest, skipped = self._last
                try:
                    self._send(counts, log_digest, skipped=skipped, num_attempts=1)
                except (ServiceUnreachable, InvalidInput) as error:
                    logging.getLogger(__name__).warning("the registration could not be renewed: %s", error)
                except (ServiceError, HistoryChanged) as refusal:
                    self._refusal = refusal
                    return
                due_s = time.monotonic() + period_s


def _progress(
    consumer: Consumer, counts: Counts, *, log_digest: bytes, rewind: bool, skipped: Sequence[Skip]
) -> dict[str, JsonValue]:
    skips: list[JsonValue] = [{"seq": seq, "reason": reason} for seq, reason in skipped]
    return {
        "role": consumer.role,
        "world_size": consumer.world_size,
        "accumulation": consumer.accumulation,
        "read_ahead": consumer.read_ahead,
        "checkpoint_every": consumer.checkpoint_every,
        "delivered_seq": counts.delivered_seq,
        "trained_seq": counts.trained_seq,
        "durable_seq": counts.durable_seq,
        "log_digest": log_digest.hex(),
        "ttl_s": consumer.ttl_s,
        "rewind": rewind,
        **({"skipped": skips} if skips else {}),
    }


def post_checkpoint(
    client: ServiceClient, job: str, *, trained_seq: int, root: str, key: str, sha256_hex: str
) -> PushedCheckpoint:
    """Announce a weights file that lies in a root; the same one announced again is the same checkpoint.

    No Idempotency-Key is sent: a stored answer would hide that, after a rewind, the same bytes must count anew.

    Raises:
        ServiceError: refused: unknown root, missing file, another job's learner.
        HistoryChanged, ServiceUnreachable: see ServiceClient.
        CorruptFile: an answer that is no checkpoint.
    """
    files: list[JsonValue] = [{"role": "weights", "root": root, "key": key, "sha256": sha256_hex}]
    answer = client.send_json("POST", f"v1/jobs/{job}/checkpoints", {"trained_seq": trained_seq, "files": files})
    fields = as_fields(answer.content, where="pushed checkpoint")
    return PushedCheckpoint(
        checkpoint_id=fields.text("id"),
        state=fields.text("state"),
        trained_seq=trained_seq,
        key=key,
        sha256=sha256_hex,
    )
