"""Which objects of the store the published batches of a job name."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqlalchemy import Connection, select

from superbatch_server.service.catalog.tables import segments


def published_objects(connection: Connection, job_id: str, seqs: Iterable[int]) -> set[str]:
    """Return the keys of list and score shards of the segments that hold any of these batches."""
    keys: set[str] = set()
    stop_seq = 0
    for seq in sorted(set(seqs)):
        if seq < stop_seq:
            continue
        query = select(segments).where(segments.c.job_id == job_id, segments.c.first_seq <= seq)
        row = connection.execute(query.order_by(segments.c.first_seq.desc()).limit(1)).mappings().one_or_none()
        if row is None or seq >= row["first_seq"] + row["num_batches"]:
            continue
        stop_seq = row["first_seq"] + row["num_batches"]
        keys |= {row["list_key"], *json.loads(row["commit"])["score_keys"]}
    return keys
