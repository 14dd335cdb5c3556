"""Handing a learner's weights to the service: through a root that both can reach, or by upload."""

from __future__ import annotations

import os
from dataclasses import dataclass

from superbatch.formats.errors import InvalidInput
from superbatch.log.checkpoints import PushedCheckpoint, WeightsFile, check_safetensors, place_checkpoint
from superbatch.log.reports import post_checkpoint
from superbatch.log.service_client import ServiceClient
from superbatch.log.upload import upload_weights


@dataclass(frozen=True, slots=True)
class Place:
    """Where a checkpoint goes in a root that trainer and service share.

    root: its name. root_path: where it is mounted here. key: path inside it, of its own for each checkpoint.
    """

    root: str
    root_path: str | os.PathLike[str]
    key: str

    @staticmethod
    def of(root: str | None, root_path: str | os.PathLike[str] | None, key: str | None) -> Place | None:
        """Return the place, None where none of the three is given. Raises: InvalidInput when only some are."""
        if root is None and root_path is None and key is None:
            return None
        if root is None or root_path is None or key is None:
            raise InvalidInput(
                f"root, root_path and key belong together; got {root!r}, {root_path!r}, {key!r}. "
                "Give all three to push through a shared root, or none to upload."
            )
        return Place(root, root_path, key)


def push_weights(
    client: ServiceClient, job: str, weights: WeightsFile, *, trained_seq: int, place: Place | None = None
) -> PushedCheckpoint:
    """Push a checkpoint; the same bytes at the same trained_seq are one checkpoint, however often they are pushed.

    Args:
        client: the service.
        job: id of the job whose learner this is.
        weights: a safetensors file, as bytes or by path; a path that lies at the place already is not copied.
        trained_seq: batches of this job already in these weights.
        place: where to put it in a shared root; None to upload it.
    Raises:
        InvalidInput: no safetensors file, a key that holds other bytes or could leave its root.
        ServiceError, HistoryChanged, ServiceUnreachable: refused or not delivered; what was placed or uploaded stays,
            and the same push may be repeated.
    """
    check_safetensors(weights, where=f"checkpoint of {trained_seq} batches, job {job}")
    if place is None:
        file = upload_weights(client, job, weights)
        root, key, sha256_hex = file.root, file.key, file.sha256
    else:
        root, key = place.root, place.key
        sha256_hex = place_checkpoint(weights, place.root_path, key=key)
    return post_checkpoint(client, job, trained_seq=trained_seq, root=root, key=key, sha256_hex=sha256_hex)
