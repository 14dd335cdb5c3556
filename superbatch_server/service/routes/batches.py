"""One published batch with what its candidates scored, from its score shard."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from superbatch_server.schemas.batches import ScoredBatch
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.catalog.pages import LARGEST_INTEGER, page_token, parse_page_token, refused
from superbatch_server.service.context import Deployed
from superbatch_server.service.routes.answers import Paged
from superbatch_server.service.scored_batches.published import find_batch, find_job

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["log"])

MAX_CAPTIONED_ROWS = 100
"""A page with captions is no longer than this, because every row may need an index file of its own."""


@router.get("/batches/{seq}")
def get_batch(
    deployment: Deployed,
    job_id: str,
    seq: Annotated[int, Path(ge=0, le=LARGEST_INTEGER)],
    page: Paged,
    fields: Annotated[
        list[Literal["caption"]],
        Query(max_length=1, description=f"Further members of a row; pages then have {MAX_CAPTIONED_ROWS} at most."),
    ] = [],  # noqa: B006  (FastAPI copies it)
) -> ScoredBatch:
    """Return what decided a batch, its counts and means, and a page of all its candidates in the order of the draw."""
    # Here, because it loads numpy and pyarrow, which a service that only hands out lists does not need.
    from superbatch_server.service.scored_batches.answer import scored_batch

    with_captions, listing = "caption" in fields, f"batches {job_id} {seq}"
    start = 0 if page.page_token is None else _place(listing, page.page_token)
    size = min(page.page_size, MAX_CAPTIONED_ROWS) if with_captions else page.page_size
    with read(deployment.engine) as connection:
        batch = find_batch(connection, find_job(connection, job_id), seq)
        return scored_batch(
            connection,
            deployment,
            batch,
            range(start, start + size),
            with_captions=with_captions,
            token_of=lambda place: page_token(listing, [place]),
        )


def _place(listing: str, token: str) -> int:
    match parse_page_token(listing, token):
        case [int(place)] if type(place) is int and 0 <= place < 1 << 40:
            return place
    raise refused(token)
