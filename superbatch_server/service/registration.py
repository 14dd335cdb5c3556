"""What can be refused about a data-set or model manifest before any of its files is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from superbatch_server.schemas.braces import MAX_SHARDS, expand_braces
from superbatch_server.schemas.datasets import DatasetManifest, ShardRef
from superbatch_server.schemas.errors import DuplicateShard, InvalidRequest
from superbatch_server.schemas.models import ModelManifest
from superbatch_server.storage.places import require_safe
from superbatch_server.storage.roots import Root, find_root


def expand_shards(manifest: DatasetManifest, roots: Mapping[str, Root]) -> list[ShardRef]:
    """Return the manifest's shards with every pattern expanded, each named once and inside its root.

    Raises:
        UnknownRoot, UnsafeKey, DuplicateShard, InvalidRequest: the first thing that is wrong.
    """
    find_root(roots, manifest.root)
    shards: dict[str, ShardRef] = {}
    for shard in (one for ref in manifest.shards for one in _expanded(ref)):
        require_safe(shard.key, where=f"root {manifest.root}, shards")
        if shard.key in shards:
            raise DuplicateShard(
                f"a shard may stand once in a data set; got {shard.key!r} again (root {manifest.root}, shards). "
                "Remove one of them."
            )
        shards[shard.key] = shard
        if len(shards) > MAX_SHARDS:
            raise InvalidRequest(f"a data set may have {MAX_SHARDS:,} shards; got more (shards). Split it.")
    return list(shards.values())


def require_known_roots(manifest: ModelManifest, roots: Mapping[str, Root]) -> None:
    """Raise UnknownRoot when a file is in a root that the deployment does not have."""
    for file in manifest.files:
        find_root(roots, file.root)


def _expanded(ref: ShardRef) -> Iterable[ShardRef]:
    keys = expand_braces(ref.key)
    if len(keys) > 1 and (ref.sha256 is not None or ref.rows is not None):
        raise InvalidRequest(
            f"sha256 and rows belong to one shard; got them with {len(keys)} (shards, key {ref.key!r}). "
            "Name each shard by itself."
        )
    return [ref.model_copy(update={"key": key}) for key in keys]
