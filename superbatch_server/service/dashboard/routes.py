"""The dashboard's routes. `/live/...` is the part of a page that changes, for the page's own script."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import Response
from jinja2 import Environment

from superbatch_server.schemas.errors import ApiError, NotFound, Unauthorized
from superbatch_server.service.auth import require_user
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.context import deployment_of
from superbatch_server.service.dashboard.history import HistoryCache
from superbatch_server.service.dashboard.home_page import read_home_page
from superbatch_server.service.dashboard.job_page import read_job_page
from superbatch_server.service.dashboard.rendering import answer, draw, make_templates, message_page, static_files


def build_router() -> APIRouter:
    """Return the routes of the dashboard; they find the catalog in `app.state.deployment`."""
    router = APIRouter(include_in_schema=False)
    templates, histories, files = make_templates(), HistoryCache(), static_files()

    def home(request: Request, template: str) -> Response:
        with read(deployment_of(request).engine) as connection:
            page = read_home_page(connection)
        return answer(request, draw(templates, template, page))

    def job(request: Request, template: str) -> Response:
        with read(deployment_of(request).engine) as connection:
            page = read_job_page(connection, request.path_params["job_id"], histories)
        return answer(request, draw(templates, template, page), is_over=page.is_over)

    def add(path: str, show: Callable[[Request, str], Response], template: str) -> None:
        # Not a coroutine, so that reading the catalog runs in a worker thread.
        def endpoint(request: Request) -> Response:
            return _guarded(templates, request, lambda: show(request, template))

        router.add_api_route(path, endpoint, methods=["GET"], response_model=None)

    add("/", home, "home.html")
    add("/live/home", home, "home_live.html")
    add("/jobs/{job_id}", job, "job.html")
    add("/live/jobs/{job_id}", job, "job_live.html")

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in files:
            raise NotFound(f"a static file must be one of {', '.join(files)}; got {name[:80]!r} (path).")
        return files[name]

    return router


def _guarded(templates: Environment, request: Request, show: Callable[[], Response]) -> Response:
    """Answer a person where the API would answer with a problem body: not signed in, not found."""
    try:
        require_user(request)
        return show()
    except Unauthorized:
        return message_page(
            templates,
            status=Unauthorized.status,
            title="Sign in",
            sentence="This browser is not signed in. Print an address with a one-time code on the machine that runs "
            "the service, and open it here; `superbatch serve` prints one at its start, too.",
            command="superbatch dashboard",
        )
    except ApiError as error:
        return message_page(
            templates, status=error.status, title=error.title, sentence=str(error), link=("/", "All jobs")
        )
