"""By which rules an index file is made, and the cache key that it is found by."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from superbatch.formats.canonical import canonical_json
from superbatch.formats.tar import MAX_MEMBER_BYTES


@dataclass(frozen=True)
class IndexSpec:
    """The rules that decide an index besides the shard's bytes; `digest` is part of the cache key."""

    version: int = 1
    max_pixels: int = 1 << 24
    """Width x height: 4096 x 4096."""
    max_member_bytes: int = MAX_MEMBER_BYTES
    picture_formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP")
    picture_suffixes: tuple[str, ...] = ("png", "jpg", "jpeg", "webp")
    """The first of these that a sample has is tower a."""
    caption_suffix: str = "txt"
    caption_rule: str = "utf-8, stripped, not empty"

    def digest(self) -> bytes:
        """Return sha256("superbatch-index-spec-v1" 0x00 + canonical JSON of the fields)."""
        fields = {**vars(self), "picture_formats": list(self.picture_formats)}
        fields["picture_suffixes"] = list(self.picture_suffixes)
        return sha256(b"superbatch-index-spec-v1\0" + canonical_json(fields)).digest()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Members whose contents must be read."""
        return (*self.picture_suffixes, self.caption_suffix)


def index_cache_key(fingerprint: str, spec: IndexSpec) -> str:
    """Return sha256("superbatch-index-v1" 0x00 + shard fingerprint + digest of the index spec), 64 hex digits."""
    return sha256(b"superbatch-index-v1\0" + bytes.fromhex(fingerprint) + spec.digest()).hexdigest()


def embedding_cache_key(fingerprint: str, spec: IndexSpec, *, encoder: str, numerics: str) -> str:
    """Return the key of a shard's embeddings under one encoder and numerics profile, 64 hex digits.

    sha256("superbatch-embedding-v1" 0x00 + shard fingerprint + digest of the index spec + encoder digest + digest of
    the numerics profile), 32 bytes each.
    """
    parts = (bytes.fromhex(fingerprint), spec.digest(), bytes.fromhex(encoder), bytes.fromhex(numerics))
    return sha256(b"superbatch-embedding-v1\0" + b"".join(parts)).hexdigest()
