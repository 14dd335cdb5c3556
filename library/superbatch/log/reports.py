"""What a trainer tells the service: its progress by one idempotent PUT, and its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from superbatch.formats.canonical import JsonValue
from superbatch.formats.errors import InvalidInput
from superbatch.formats.json_fields import as_fields
from superbatch.log.checkpoints import PushedCheckpoint
from superbatch.log.service_client import ServiceClient

Role = Literal["learner", "reader"]


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


def put_progress(
    client: ServiceClient, job: str, consumer: Consumer, *, counts: Counts, log_digest: bytes, rewind: bool
) -> None:
    """Report progress; the same report may be sent any number of times.

    Raises:
        ServiceError: refused: sizes that cannot be served (422), another learner or another job (409).
        HistoryChanged, ServiceUnreachable: see ServiceClient.
    """
    body: dict[str, JsonValue] = {
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
    }
    client.send_json("PUT", f"v1/jobs/{job}/consumers/{consumer.name}", body)


def post_checkpoint(
    client: ServiceClient, job: str, *, trained_seq: int, root: str, key: str, sha256_hex: str
) -> PushedCheckpoint:
    """Announce a weights file that lies in a root; a repeated announcement is answered alike.

    Raises:
        ServiceError: refused: unknown root, missing file, another job's learner.
        HistoryChanged, ServiceUnreachable: see ServiceClient.
        CorruptFile: an answer that is no checkpoint.
    """
    files: list[JsonValue] = [{"role": "weights", "root": root, "key": key, "sha256": sha256_hex}]
    identity = sha256(f"{job}\0{trained_seq}\0{root}\0{key}\0{sha256_hex}".encode()).hexdigest()
    answer = client.send_json(
        "POST",
        f"v1/jobs/{job}/checkpoints",
        {"trained_seq": trained_seq, "files": files},
        headers={"Idempotency-Key": identity},
    )
    fields = as_fields(answer.content, where="pushed checkpoint")
    return PushedCheckpoint(
        checkpoint_id=fields.text("id"),
        state=fields.text("state"),
        trained_seq=trained_seq,
        key=key,
        sha256=sha256_hex,
    )
