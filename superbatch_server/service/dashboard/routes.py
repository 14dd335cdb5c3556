"""The dashboard's routes. `/live/...` is the part of a page that changes, for the page's own script."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response
from jinja2 import Environment

from superbatch_server.schemas.errors import ApiError, NotFound, Unauthorized, Validation
from superbatch_server.service.access.auth import require_user, sign_in
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.context import Deployed, deployment_of
from superbatch_server.service.dashboard.actions import ACTIONS, act, ask
from superbatch_server.service.dashboard.health_page import read_health_page
from superbatch_server.service.dashboard.history import HistoryCache
from superbatch_server.service.dashboard.home_page import read_home_page
from superbatch_server.service.dashboard.job_page import read_job_page
from superbatch_server.service.dashboard.logs_page import read_logs_page
from superbatch_server.service.dashboard.rendering import (
    SAFETY_HEADERS,
    answer,
    draw,
    make_templates,
    message_page,
    static_files,
)
from superbatch_server.service.dashboard.scores.routes import add_pages

Show = Callable[[Request, str], Response]
MAX_PARAMETER = 200


class Pages:
    """The pages of one app: templates, and the histories of the jobs looked at last."""

    def __init__(self) -> None:
        self.templates = make_templates()
        self._histories = HistoryCache()

    def home(self, request: Request, template: str) -> Response:
        """Jobs, data sets, models."""
        with read(deployment_of(request).engine) as connection:
            page = read_home_page(connection, state=_text(request, "state"), page_token=_text(request, "page_token"))
        return answer(request, draw(self.templates, template, page=page))

    def job(self, request: Request, template: str) -> Response:
        """One job."""
        with read(deployment_of(request).engine) as connection:
            page = read_job_page(connection, request.path_params["job_id"], self._histories)
        return answer(request, draw(self.templates, template, page=page, head=page.head), is_over=page.is_over)

    def quarantine(self, request: Request, template: str) -> Response:
        """Quarantined rows of a job."""
        from superbatch_server.service.dashboard.quarantine_page import read_quarantine_page  # loads pyarrow

        deployment = deployment_of(request)
        page = read_quarantine_page(
            deployment.engine,
            deployment.store,
            request.path_params["job_id"],
            reason=_text(request, "reason"),
            token=_text(request, "page_token"),
        )
        return answer(request, draw(self.templates, template, page=page, head=page.head))

    def logs(self, request: Request, template: str) -> Response:
        """The log of an attempt."""
        deployment = deployment_of(request)
        page = read_logs_page(
            deployment.engine,
            request.path_params["job_id"],
            attempt=_whole_number(request, "attempt"),
            after=_whole_number(request, "after"),
            logs_dir=deployment.settings.logs_dir,
        )
        html = draw(self.templates, template, page=page, head=page.head)
        return answer(request, html, is_over=not page.is_running)

    def health(self, request: Request, template: str) -> Response:
        """The service itself."""
        return answer(request, draw(self.templates, template, page=read_health_page(deployment_of(request))))

    def question(self, request: Request, template: str) -> Response:
        """Ask whether a job is to be cancelled or retried."""
        page = ask(deployment_of(request).engine, request.path_params["job_id"], _verb(request))
        return answer(request, draw(self.templates, template, page=page, head=page.head))

    def change(self, request: Request, template: str) -> Response:  # noqa: ARG002
        """Cancel or retry a job, and show it."""
        job_id = request.path_params["job_id"]
        act(deployment_of(request).engine, job_id, _verb(request))
        return RedirectResponse(f"/jobs/{job_id}", status_code=303, headers=SAFETY_HEADERS)


def build_router() -> APIRouter:
    """Return the routes of the dashboard; they find the catalog in `app.state.deployment`."""
    router = APIRouter(include_in_schema=False)
    pages, files = Pages(), static_files()

    def add(path: str, show: Show, template: str, *, method: str = "GET") -> None:
        # Not a coroutine, so that reading the catalog runs in a worker thread.
        def endpoint(request: Request) -> Response:
            return guarded(pages.templates, request, lambda: show(request, template))

        router.add_api_route(path, endpoint, methods=[method], response_model=None)

    for path, show, name in (
        ("/", pages.home, "home"),
        ("/health", pages.health, "health"),
        ("/jobs/{job_id}", pages.job, "job"),
        ("/jobs/{job_id}/quarantine", pages.quarantine, "quarantine"),
        ("/jobs/{job_id}/logs", pages.logs, "logs"),
    ):
        add(path, show, f"{name}.html")
        add("/live/home" if path == "/" else f"/live{path}", show, f"{name}_live.html")
    for verb in ACTIONS:
        add(f"/jobs/{{job_id}}/{verb}", pages.question, "question.html")
        add(f"/jobs/{{job_id}}/{verb}", pages.change, "", method="POST")
    add_pages(router, pages.templates, guarded=partial(guarded, pages.templates))

    @router.get("/login", response_model=None)
    def login(request: Request, deployment: Deployed, code: Annotated[str, Query(max_length=200)]) -> Response:
        try:
            return sign_in(deployment, code)
        except Unauthorized:
            if "text/html" not in request.headers.get("Accept", ""):
                raise
            return _used_code_page(pages.templates)

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in files:
            raise NotFound(f"a static file must be one of {', '.join(files)}; got {name[:80]!r} (path).")
        return files[name]

    return router


def guarded(templates: Environment, request: Request, show: Callable[[], Response]) -> Response:
    """Answer a person where the API would answer with a problem body: not signed in, not found."""
    try:
        require_user(request)
        return show()
    except Unauthorized:
        return message_page(
            templates,
            status=Unauthorized.status,
            title="Sign in",
            sentence="This browser is not signed in. Print an address with a one-time code on the machine that "
            "runs the service, and open it here; `superbatch serve` prints one at its start, too.",
            command="superbatch dashboard",
        )
    except ApiError as error:
        return message_page(
            templates, status=error.status, title=error.title, sentence=str(error), link=("/", "All jobs")
        )


def _used_code_page(templates: Environment) -> Response:
    return message_page(
        templates,
        status=Unauthorized.status,
        title="Sign in again",
        sentence="This address was used, or is older than a day: its code works once. Print a new address on the "
        "machine that runs the service, and open it here. A browser that is signed in needs none.",
        command="superbatch dashboard",
        link=("/", "Dashboard"),
    )


def _verb(request: Request) -> str:
    return request.url.path.rsplit("/", 1)[-1]


def _text(request: Request, name: str) -> str | None:
    text = request.query_params.get(name)
    if text is not None and len(text) > MAX_PARAMETER:
        raise Validation(
            f"{name} must have at most {MAX_PARAMETER} characters; got {len(text)} (query). Start again without it."
        )
    return text or None


def _whole_number(request: Request, name: str) -> int | None:
    text = _text(request, name)
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise Validation(f"{name} must be a whole number; got {text[:40]!r} (query). Start again without it.")
    return None if text is None else int(text)
