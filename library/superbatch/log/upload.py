"""Resumable uploads: the learner's weights to a service with which the trainer shares no root.

The sha256 of the file names the upload, so nothing has to be remembered here: begun again, by the same process or by
the one that comes after a crash, an upload goes on at the byte up to which the service has it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO, Self

from superbatch.formats.errors import ServiceError, ServiceUnreachable
from superbatch.formats.json_fields import as_fields
from superbatch.log.checkpoints import WeightsFile, file_sha256, opened
from superbatch.log.service_client import Answer, ServiceClient

PART_BYTES = 4 << 20
"""Sent at once where the service allows it; a connection that breaks costs at most this much."""

_BEGIN_AGAIN = frozenset({"not_found", "digest_mismatch"})
_MAX_BEGINNINGS = 3
_MAX_STANDSTILLS = 3


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A weights file that the service has: root, key and sha256, as `POST checkpoints` names it."""

    root: str
    key: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _Progress:
    received_bytes: int
    part_bytes: int
    file: UploadedFile | None

    @classmethod
    def of(cls, answer: Answer) -> Self:
        fields = as_fields(answer.content, where="upload")
        found = fields.optional_object("file")
        file = None if found is None else UploadedFile(found.text("root"), found.text("key"), found.text("sha256"))
        return cls(fields.integer("received_bytes"), fields.integer("max_part_bytes"), file)


def upload_weights(
    client: ServiceClient, job: str, weights: WeightsFile, *, part_bytes: int = PART_BYTES
) -> UploadedFile:
    """Send a weights file to the service, only what it does not have yet, and return where the service keeps it.

    Args:
        client: the service; it repeats what a broken connection left unanswered.
        job: id of the job whose learner this is.
        weights: a safetensors file, as bytes or by path; read part by part.
        part_bytes: bytes per request, at most what the service allows.
    Raises:
        ServiceError: refused: no room (413, `upload_quota`), no safetensors file, a job without a pushed learner.
        HistoryChanged, ServiceUnreachable: see ServiceClient; what was sent stays there and is gone on with.
        CorruptFile: an answer that is no upload.
    Cost: one pass over the file for its sha256, one to send it; `part_bytes` of memory.
    """
    sha256_hex = file_sha256(weights)
    with opened(weights) as file:
        size_bytes = file.seek(0, io.SEEK_END)
        for beginning in range(1, _MAX_BEGINNINGS + 1):
            begun = client.send_json("POST", f"v1/jobs/{job}/uploads", {"sha256": sha256_hex, "size_bytes": size_bytes})
            link = f"v1/jobs/{job}/uploads/{sha256_hex}"
            try:
                return _sent(client, link, file, _Progress.of(begun), size_bytes=size_bytes, part_bytes=part_bytes)
            except ServiceError as error:
                # Forgotten by the service, or spoiled on the way: once more from the first byte.
                if error.problem_code not in _BEGIN_AGAIN or beginning == _MAX_BEGINNINGS:
                    raise
    raise AssertionError("the last beginning returns or raises")


def _sent(
    client: ServiceClient, link: str, file: BinaryIO, progress: _Progress, *, size_bytes: int, part_bytes: int
) -> UploadedFile:
    standstills = 0
    while progress.file is None:
        if progress.received_bytes == size_bytes:
            progress = _Progress.of(client.send_json("POST", f"{link}:complete", {}))
            continue
        offset = file.seek(progress.received_bytes)
        part = file.read(max(1, min(part_bytes, progress.part_bytes)))
        try:
            progress = _Progress.of(client.send_bytes("PUT", link, part, params={"offset": offset}))
        except ServiceError as error:
            # The answer to this very part was lost, or another sender is ahead: ask where to go on.
            if error.problem_code != "wrong_offset":
                raise
            progress = _Progress.of(client.get(link))
        standstills = standstills + 1 if progress.received_bytes <= offset else 0
        if standstills == _MAX_STANDSTILLS:
            raise ServiceUnreachable(
                f"an upload must grow with each part; got {progress.received_bytes} bytes after {standstills} parts at "
                f"{offset} ({link}). Look at the service's log, then push again."
            )
    return progress.file
