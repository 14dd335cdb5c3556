"""What every route is given: the real things, built in the main and passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine

from superbatch_server.service.access.credentials import KnownTokens
from superbatch_server.service.access.limits import Bounds, Limits
from superbatch_server.service.catalog.engine import wakeups_of
from superbatch_server.service.catalog.wakeups import Wakeups
from superbatch_server.service.following.manifest_pages import ManifestPages
from superbatch_server.service.settings import Settings
from superbatch_server.storage.roots import Root
from superbatch_server.storage.store import ArtifactStore
from superbatch_server.storage.uploads import Uploads

if TYPE_CHECKING:
    from superbatch_server.service.scored_batches.reading import ScoredBatches


@dataclass(frozen=True)
class Deployment:
    """Catalog, store, roots and settings of this service."""

    engine: Engine
    settings: Settings
    store: ArtifactStore
    roots: Mapping[str, Root]
    token: str = field(repr=False)

    @property
    def wakeups(self) -> Wakeups:
        """Where routes wait for a job to change."""
        return wakeups_of(self.engine)

    @cached_property
    def manifest_pages(self) -> ManifestPages:
        """Manifests, read once for all who poll the same."""
        return ManifestPages(self.engine)

    @cached_property
    def scored_batches(self) -> ScoredBatches:
        """Score shards and index files, kept while they are looked at."""
        from superbatch_server.service.scored_batches.reading import ScoredBatches  # loads numpy and pyarrow

        return ScoredBatches()

    @cached_property
    def known_tokens(self) -> KnownTokens:
        """Whose bearer a request carries."""
        return KnownTokens(self.engine, self.token)

    @cached_property
    def limits(self) -> Limits:
        """What is under way, and how much may be."""
        settings = self.settings
        return Limits(
            Bounds(settings.requests_per_s, settings.max_requests, settings.max_waiting, settings.max_streams)
        )

    @property
    def uploads(self) -> Uploads:
        """Checkpoints that trainers upload."""
        return Uploads(self.settings.uploads_dir)


def deployment_of(request: Request) -> Deployment:
    """Return the deployment that the app was made for."""
    deployment: Deployment = request.app.state.deployment
    return deployment


Deployed = Annotated[Deployment, Depends(deployment_of)]
