"""Where the examples of a job are: the shard table that its manifest links to, and the service's roots."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from superbatch.formats.errors import CorruptFile
from superbatch.formats.json_fields import as_fields
from superbatch.formats.manifest import Manifest
from superbatch.formats.shards import ShardTable
from superbatch.log.service_client import ServiceClient


def fetch_shard_table(client: ServiceClient, manifest: Manifest, *, base: str) -> ShardTable:
    """Return the shard table of a manifest, whose link is relative to `base`.

    Raises:
        CorruptFile: it is not that of the manifest's dataset.
    """
    content = client.get(manifest.shard_table, base=base).content
    table = ShardTable.from_json(content, where=f"shard table of job {manifest.job}")
    if table.dataset_fingerprint != manifest.dataset_fingerprint:
        raise CorruptFile(
            f"the shard table must be of dataset {manifest.dataset_fingerprint}; got {table.dataset_fingerprint} "
            f"(job {manifest.job})."
        )
    return table


def fetch_local_roots(client: ServiceClient) -> dict[str, str]:
    """Return the local path per root, for those roots whose address is a file:// URL."""
    listing = as_fields(client.get("v1/roots").content, where="roots")
    urls = {root.text("name"): urlsplit(root.text("url")) for root in listing.objects("roots")}
    return {name: unquote(url.path) for name, url in urls.items() if url.scheme == "file"}
