"""The identity of a row: a digest of its content, so that scores travel between copies of a dataset."""

from __future__ import annotations

from hashlib import sha256

from superbatch.formats.errors import InvalidInput

UID_BYTES = 16
_PREFIX = b"superbatch-uid-v1\0"


def row_uid(a_sha256: bytes, b_sha256: bytes) -> bytes:
    """Return the uid of a row from the digests of its two towers.

    uid = sha256("superbatch-uid-v1" 0x00 + sha256(A) + sha256(B)), first 16 bytes. A and B are the bytes as stored:
    the encoded picture; the whole .txt member, or the UTF-8 of a JSON or Parquet string. Nothing is stripped.

    Args:
        a_sha256: sha256 of tower a, 32 bytes; of the empty string where the tower is missing.
        b_sha256: the same of tower b.
    Returns:
        16 bytes.
    Raises:
        InvalidInput: a digest that is not 32 bytes long.
    Source: design.md section 1.
    """
    for tower, digest in (("a", a_sha256), ("b", b_sha256)):
        if len(digest) != 32:
            raise InvalidInput(
                f"a sha256 has 32 bytes; got {len(digest)} (tower {tower}). "
                "Pass the digest, not its hex or the content."
            )
    return sha256(_PREFIX + a_sha256 + b_sha256).digest()[:UID_BYTES]


def uid_of_bytes(a: bytes, b: bytes) -> bytes:
    """Return the uid of a row from the stored bytes of its two towers (missing = empty).

    Returns:
        16 bytes, as `row_uid`.
    """
    return row_uid(sha256(a).digest(), sha256(b).digest())
