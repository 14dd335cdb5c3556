"""Every digest of the design, each one function: shard, dataset, eligible set, exclusions, batch, log.

All are sha256 over a versioned prefix that ends in a zero byte, followed by the parts in the order stated. Integers
are little-endian. Strings are UTF-8. Digests are 32 raw bytes here and lower-case hexadecimal in JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

from superbatch.formats.canonical import JsonValue, canonical_json
from superbatch.formats.errors import InvalidInput
from superbatch.formats.uid import UID_BYTES

DIGEST_BYTES = 32


def weak_shard_fingerprint(root: str, key: str, *, etag: str | None, size: int, mtime_ns: int) -> bytes:
    """Return the fingerprint of a shard whose sha256 is not known.

    sha256("superbatch-weak-v1" 0x00 + root + 0x00 + key + 0x00 + (etag, or "size:mtime_ns" in decimal)).

    Args:
        root: name of the root.
        key: path of the shard inside the root.
        etag: the object store's etag, verbatim; None or "" for a local file.
        size: length in bytes; not used where there is an etag.
        mtime_ns: time of the last change in nanoseconds since 1970; not used where there is an etag.
    Returns:
        32 bytes.
    Raises:
        InvalidInput: a zero byte in root or key, which would make two shards look alike.
    Source: design.md section 3.2.
    """
    if "\0" in root or "\0" in key:
        raise InvalidInput(f"root and key must not hold a zero byte; got {root!r}, {key!r}. Rename the object.")
    tail = etag or f"{size}:{mtime_ns}"
    return sha256(b"superbatch-weak-v1\0" + f"{root}\0{key}\0{tail}".encode()).digest()


def dataset_fingerprint(
    *,
    format: str,
    towers: Mapping[str, JsonValue],
    caption_field: str | None,
    shard_fingerprints: Iterable[bytes],
) -> bytes:
    """Return the fingerprint of a dataset; every later read is checked against it.

    sha256("superbatch-dataset-v1" 0x00 + canonical JSON of {"caption_field", "format", "towers"} + the shard
    fingerprints, 32 bytes each, in manifest order).

    Args:
        format: webdataset, parquet or jsonl.
        towers: kinds of tower a and b, for example {"a": "image", "b": "text"}.
        caption_field: where the caption is, for example "txt".
        shard_fingerprints: sha256 of each shard, or its weak fingerprint.
    Returns:
        32 bytes.
    Raises:
        InvalidInput: a fingerprint that is not 32 bytes long.
    Source: design.md section 3.2.
    """
    head: dict[str, JsonValue] = {"caption_field": caption_field, "format": format, "towers": towers}
    digest = sha256(b"superbatch-dataset-v1\0" + canonical_json(head))
    for fingerprint in shard_fingerprints:
        digest.update(_checked(fingerprint, "shard fingerprint"))
    return digest.digest()


def eligible_bitmap(eligible: Iterable[bool]) -> bytes:
    """Return one bit per dataset_index, least significant bit first; unused bits of the last byte are 0.

    Row 0 alone gives b"\\x01", row 8 alone of nine gives b"\\x00\\x01".
    """
    packed = bytearray()
    for index, is_eligible in enumerate(eligible):
        if index % 8 == 0:
            packed.append(0)
        if is_eligible:
            packed[-1] |= 1 << (index % 8)
    return bytes(packed)


def eligible_digest(dataset_fingerprint: bytes, eligible: Iterable[bool] | bytes) -> bytes:
    """Return the digest of the eligible set of a dataset.

    sha256("superbatch-eligible-v1" 0x00 + dataset fingerprint + bitmap), one bit per dataset_index, least significant
    first, unused bits 0.

    Args:
        dataset_fingerprint: 32 bytes.
        eligible: one truth value per dataset_index in order; `bytes` are taken as the finished bitmap.
    Returns:
        32 bytes.
    Raises:
        InvalidInput: a fingerprint that is not 32 bytes long.
    Source: design.md section 1.
    """
    bitmap = eligible if isinstance(eligible, bytes) else eligible_bitmap(eligible)
    return sha256(b"superbatch-eligible-v1\0" + _checked(dataset_fingerprint, "dataset fingerprint") + bitmap).digest()


def exclusions_digest(uids: Iterable[bytes]) -> bytes:
    """Return the digest of a set of excluded rows; a schedule row names it, so that a replay leaves out the same ones.

    sha256("superbatch-exclusions-v1" 0x00 + the uids in ascending order, each once, 16 bytes each).

    Args:
        uids: 16 bytes each, in any order; one that comes twice counts once.
    Returns:
        32 bytes.
    Raises:
        InvalidInput: a uid that is not 16 bytes long.
    Source: design.md section 4, digest of the exclusions.
    """
    ordered = sorted(set(uids))
    for uid in ordered:
        if len(uid) != UID_BYTES:
            raise InvalidInput(f"a uid has {UID_BYTES} bytes; got {len(uid)} (exclusions). Pass bytes, not their hex.")
    return sha256(b"superbatch-exclusions-v1\0" + b"".join(ordered)).digest()


def batch_digest(fingerprint: bytes, seq: int, uids: Sequence[bytes], variants: Sequence[int]) -> bytes:
    """Return the digest of one batch: which rows, in which slots, in which variant, at which seq.

    sha256("superbatch-batch-v1" 0x00 + dataset fingerprint + u64le seq + u32le b + per slot: uid (16) + u8 variant).

    Args:
        fingerprint: dataset fingerprint, 32 bytes.
        seq: position of the batch in the log.
        uids: uid per slot, 16 bytes each.
        variants: variant per slot, 0 = full.
    Returns:
        32 bytes.
    Raises:
        InvalidInput: lengths that differ, a uid that is not 16 bytes long, a number outside its width.
    Source: trainer-contract.md, Batch list.
    """
    if len(uids) != len(variants):
        raise InvalidInput(
            f"a batch has one variant per uid; got {len(uids)} uids, {len(variants)} variants (seq {seq})."
        )
    slots = bytearray()
    for slot, (uid, variant) in enumerate(zip(uids, variants, strict=True)):
        if len(uid) != UID_BYTES or not 0 <= variant < 256:
            raise InvalidInput(
                f"a slot has a uid of 16 bytes and a variant in [0, 256); got {len(uid)} bytes, variant {variant} "
                f"(seq {seq}, slot {slot}). Check the batch's columns."
            )
        slots += uid
        slots.append(variant)
    try:
        head = struct.pack("<QI", seq, len(uids))
    except struct.error as error:
        raise InvalidInput(f"seq must fit an unsigned 64-bit integer; got {seq}. Count batches from 0.") from error
    return sha256(b"superbatch-batch-v1\0" + _checked(fingerprint, "dataset fingerprint") + head + slots).digest()


def log_digest_start(job_id: str, history_id: str) -> bytes:
    """Return the log digest before seq 0: sha256("superbatch-log-v1" 0x00 + job id + 0x00 + history id), both ASCII.

    Returns:
        32 bytes.
    Raises:
        InvalidInput: an id that is empty, not ASCII, or holds a zero byte.
    Source: trainer-contract.md, Batch list.
    """
    for name, value in (("job id", job_id), ("history id", history_id)):
        if not value or not value.isascii() or "\0" in value:
            raise InvalidInput(
                f"a {name} must be non-empty ASCII without zero bytes; got {value!r}. Use the service's id."
            )
    return sha256(b"superbatch-log-v1\0" + job_id.encode("ascii") + b"\0" + history_id.encode("ascii")).digest()


def next_log_digest(log_digest: bytes, batch_digest: bytes) -> bytes:
    """Return the log digest after one more batch: sha256(log digest before + batch digest).

    Returns:
        32 bytes.
    Raises:
        InvalidInput: a digest that is not 32 bytes long.
    Source: trainer-contract.md, Batch list.
    """
    return sha256(_checked(log_digest, "log digest") + _checked(batch_digest, "batch digest")).digest()


def _checked(digest: bytes, name: str) -> bytes:
    if len(digest) != DIGEST_BYTES:
        raise InvalidInput(f"a {name} has 32 bytes; got {len(digest)}. Pass raw bytes, not hexadecimal text.")
    return digest
