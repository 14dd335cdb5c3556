"""What a trainer tells the service: its progress by one idempotent PUT, and its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from superbatch.formats.canonical import JsonValue
from superbatch.formats.errors import InvalidInput
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
    ttl_s: seconds without a report after which production pauses.
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
    """Reports the progress of one trainer, and keeps its registration alive while it waits.

    Production pauses when a trainer is silent for ttl_s. One that waits for its first batch is silent through the whole
    index pass, so its last report is repeated every third of the ttl.

    Args:
        client: the service.
        job: id of the job.
        consumer: the trainer as it registers.
        clock: monotonic time in seconds.
    """

    def __init__(self, client: ServiceClient, job: str, consumer: Consumer, *, clock: Callable[[], float]) -> None:
        self._client = client
        self._job = job
        self._consumer = consumer
        self._clock = clock
        self._last: tuple[Counts, bytes, Sequence[Skip]] | None = None
        self._due_s = math.inf

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
        sent_s = self._clock()
        body = _progress(self._consumer, counts, log_digest=log_digest, rewind=rewind, skipped=skipped)
        self._client.send_json("PUT", f"v1/jobs/{self._job}/consumers/{self._consumer.name}", body)
        self._last, self._due_s = (counts, log_digest, skipped), sent_s + self._consumer.ttl_s / 3

    def repeat(self, *, skipped: Sequence[Skip]) -> None:
        """Send the last report again, with these batches as skipped; nothing before the first report.

        Raises:
            ServiceError, HistoryChanged, ServiceUnreachable: as `report`.
        """
        if self._last is not None:
            counts, log_digest, _ = self._last
            self.report(counts, log_digest, skipped=skipped)

    def keep_alive(self) -> float:
        """Repeat the last report if a third of the ttl has passed; return the seconds until it is due again.

        The repetition never says `rewind`: checkpoints that were pushed since the report must not be orphaned by it.

        Raises:
            ServiceError, HistoryChanged, ServiceUnreachable: as `report`; another learner took over (409).
        """
        if self._last is not None and self._clock() >= self._due_s:
            self.repeat(skipped=self._last[2])
        return self._due_s - self._clock()


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
