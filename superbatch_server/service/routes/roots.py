"""Roots: the named places of this deployment. They are a setting, so they can only be read here."""

from __future__ import annotations

from fastapi import APIRouter

from superbatch_server.schemas.base import Body
from superbatch_server.service.context import Deployed

router = APIRouter(prefix="/v1/roots", tags=["roots"])


class RootPlace(Body):
    """A name, and where it points."""

    name: str
    url: str


class RootList(Body):
    """Every root of the deployment."""

    roots: list[RootPlace]


@router.get("")
def list_roots(deployment: Deployed) -> RootList:
    """Return the roots by name."""
    places = sorted(deployment.settings.roots.items())
    return RootList(roots=[RootPlace(name=name, url=url) for name, url in places])
