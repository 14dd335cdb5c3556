"""What every route is given: the real things, built in the main and passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine

from superbatch_server.service.settings import Settings
from superbatch_server.storage.roots import Root
from superbatch_server.storage.store import ArtifactStore
from superbatch_server.storage.uploads import Uploads


@dataclass(frozen=True)
class Deployment:
    """Catalog, store, roots and settings of this service."""

    engine: Engine
    settings: Settings
    store: ArtifactStore
    roots: Mapping[str, Root]
    token: str = field(repr=False)

    @property
    def uploads(self) -> Uploads:
        """Checkpoints that trainers upload."""
        return Uploads(self.settings.uploads_dir)


def deployment_of(request: Request) -> Deployment:
    """Return the deployment that the app was made for."""
    deployment: Deployment = request.app.state.deployment
    return deployment


Deployed = Annotated[Deployment, Depends(deployment_of)]
