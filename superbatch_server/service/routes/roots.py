"""Roots: the named places of this deployment. They are a setting, so they can only be read here."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from superbatch_server.schemas.base import Body
from superbatch_server.service.context import Deployed
from superbatch_server.service.routes.answers import NOT_MODIFIED, IfNoneMatch, represent

router = APIRouter(prefix="/v1/roots", tags=["roots"])


class RootPlace(Body):
    """A name, and where it points."""

    name: str
    url: str


class RootList(Body):
    """Every root of the deployment."""

    roots: list[RootPlace]


@router.get("", response_model=RootList, responses=NOT_MODIFIED)
def list_roots(deployment: Deployed, if_none_match: IfNoneMatch = None) -> Response:
    """Return the roots by name."""
    places = sorted(deployment.settings.roots.items())
    return represent(RootList(roots=[RootPlace(name=name, url=url) for name, url in places]), if_none_match)
