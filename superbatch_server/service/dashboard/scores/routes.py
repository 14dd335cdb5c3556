"""Adds the pages that read score shards, and the pictures on them, to the dashboard's routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import Response
from jinja2 import Environment

from superbatch_server.schemas.errors import NotFound
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.context import deployment_of
from superbatch_server.service.dashboard.job_head import read_job_head
from superbatch_server.service.dashboard.rendering import answer, draw
from superbatch_server.service.dashboard.scores.pictures import Pictures

if TYPE_CHECKING:
    from superbatch_server.service.dashboard.scores.reader import JobReader

ReadPage = Callable[["JobReader", Mapping[str, str]], object]
Guard = Callable[[Request, Callable[[], Response]], Response]

_TABS = {"learnability": "learnability", "examples": "examples", "why": "examples", "compare": "compare"}
"""Name of a page, and the tab of the job that is open there."""


def _page_reader(name: str) -> ReadPage:
    """Return what reads a page; imported with its first request, because it loads numpy and pyarrow."""

    from superbatch_server.service.dashboard.scores.compare_page import read_compare_page
    from superbatch_server.service.dashboard.scores.examples_page import read_examples_page
    from superbatch_server.service.dashboard.scores.learnability_page import read_learnability_page
    from superbatch_server.service.dashboard.scores.why_page import read_why_page

    readers: dict[str, ReadPage] = {
        "learnability": read_learnability_page,
        "examples": read_examples_page,
        "why": read_why_page,
        "compare": read_compare_page,
    }
    return readers[name]


def add_pages(router: APIRouter, templates: Environment, *, guarded: Guard) -> None:
    """Add the routes; `guarded` asks who is there, and turns errors into pages for people."""
    for name in _TABS:
        _add_page(router, templates, guarded, name=name)
    pictures = Pictures()

    @router.get("/jobs/{job_id}/pictures/{dataset_index}", response_model=None)
    async def picture(request: Request, job_id: str, dataset_index: str) -> Response:
        def show() -> Response:
            if not (dataset_index.isascii() and dataset_index.isdigit() and len(dataset_index) <= 18):
                raise NotFound(f"a picture is named by a dataset_index; got {dataset_index[:40]!r} (path). Correct it.")
            return pictures.answer(request, deployment_of(request), job_id=job_id, dataset_index=int(dataset_index))

        return await pictures.in_turn(lambda: guarded(request, show))


def _add_page(router: APIRouter, templates: Environment, guarded: Guard, *, name: str) -> None:
    # Not a coroutine, so that reading the store runs in a worker thread.
    def endpoint(request: Request, job_id: str) -> Response:
        def show() -> Response:
            from superbatch_server.service.dashboard.scores.reader import JobReader

            deployment = deployment_of(request)
            with read(deployment.engine) as connection:
                head = read_job_head(connection, job_id, _TABS[name])
                page = _page_reader(name)(JobReader.of(connection, deployment, job_id), request.query_params)
            return answer(request, draw(templates, f"scores_{name}.html", page=page, head=head))

        return guarded(request, show)

    router.add_api_route(f"/jobs/{{job_id}}/{name}", endpoint, methods=["GET"], response_model=None)
