"""Small batches, tars and documents that the tests of formats and log share."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from hashlib import sha256

import pyarrow as pa

from superbatch.formats.batch_list import batch_rows
from superbatch.formats.manifest import Manifest, NumericsProfile, Policy, Revoked, ScoredWith, Segment, Variant
from superbatch.formats.shards import ShardEntry, ShardTable

FINGERPRINT = sha256(b"dataset").digest()


def uid_at(seq: int, slot: int) -> bytes:
    return sha256(f"{seq}:{slot}".encode()).digest()[:16]


def a_batch(seq: int, b: int = 4, **columns: Sequence[object]) -> pa.Table:
    """A batch whose every row differs; named columns are replaced."""
    plain: dict[str, Sequence[object]] = {
        "batch_seq": [seq] * b,
        "slot": list(range(b)),
        "uid": [uid_at(seq, slot) for slot in range(b)],
        "dataset_index": [100 * seq + slot for slot in range(b)],
        "shard_id": [0] * b,
        "sample_index": list(range(b)),
        "key": [f"s/{slot:03d}" for slot in range(b)],
        "sample_offset": [3072 * slot for slot in range(b)],
        "sample_length": [3072] * b,
        "a_offset": [3072 * slot + 512 for slot in range(b)],
        "a_length": [700] * b,
        "b_offset": [3072 * slot + 2048 for slot in range(b)],
        "b_length": [7] * b,
        "variant": [0] * b,
        "chunk": [1 + slot % 2 for slot in range(b)],
        "score": [0.5 * slot for slot in range(b)],
        "loss_learner": [1.0 + slot for slot in range(b)],
        "loss_reference": [0.25 * slot for slot in range(b)],
    }
    return batch_rows({**plain, **columns})


def a_segment(first_seq: int = 0, num_batches: int = 2) -> Segment:
    return Segment(
        first_seq=first_seq,
        num_batches=num_batches,
        f=(0.8,) * num_batches,
        B=(640,) * num_batches,
        list_link=f"lists/{first_seq:012d}-{first_seq + num_batches:012d}-0123456789abcdef.parquet",
        num_bytes=4096,
        sha256="01" * 32,
        generation=1,
        scored_with=ScoredWith(checkpoint="ckp_0123456789abcdef", trained_seq=0, sha256="02" * 32),
        rule=None,
        log_digest_end="03" * 32,
    )


def a_manifest() -> Manifest:
    """A manifest in which every optional field is given."""
    return Manifest(
        job="job_0123456789abcdef",
        history_id="h1",
        dataset_fingerprint=FINGERPRINT.hex(),
        shard_table="shard-table",
        policy=Policy(
            method="joint",
            criterion="learnability",
            b=128,
            B=640,
            f={"points": [[0, 0.8], [100, 0.0]], "between": "linear"},
            N=16,
            variants=(Variant(resolution=32, patch=4, flops_fraction=1.0),),
            loss="softmax",
            precision="bf16",
            first_round="probe",
            probe_size=64,
            repetition_cap=3,
            max_cosine=0.95,
        ),
        reference_digest="04" * 32,
        eligible_digest="05" * 32,
        numerics_profile=NumericsProfile(digest="06" * 32, parts={"torch": "2.13.0", "threads": 2}),
        oldest_seq=0,
        next_seq=4,
        end="complete",
        final_seq=4,
        segments=(a_segment(0), a_segment(2)),
        revoked=(Revoked(first_seq=1, num_batches=1, reason="excluded row"),),
        next_link="manifest?after=4",
    )


def a_shard_table(*rows: int, root: str = "pool") -> ShardTable:
    """A table of shards with these numbers of rows."""
    starts = [sum(rows[:position]) for position in range(len(rows))]
    return ShardTable(
        dataset_fingerprint=FINGERPRINT.hex(),
        kind_a="image",
        kind_b="text",
        caption_field="txt",
        shards=tuple(
            ShardEntry(
                shard_id=position,
                root=root,
                key=f"pool/{position:06d}.tar",
                format="webdataset",
                rows=num_rows,
                start_index=start,
                source="emoji",
                fingerprint=f"{position:02x}" * 32,
            )
            for position, (num_rows, start) in enumerate(zip(rows, starts, strict=True))
        ),
    )


def a_tar(files: Sequence[tuple[str, bytes]], *, format: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of these files, in order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()
