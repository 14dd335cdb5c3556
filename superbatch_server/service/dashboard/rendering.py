"""Templates to answers: strict escaping, one content policy, and an ETag so that nothing unchanged is sent again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from superbatch_server.service.dashboard.attempts import age, duration
from superbatch_server.service.dashboard.health_page import size
from superbatch_server.service.dashboard.plot import number
from superbatch_server.service.dashboard.safe_text import plain, shown, shown_lines
from superbatch_server.service.routes.answers import REVALIDATED

HERE = Path(__file__).parent
STATIC = HERE / "static"

CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""Nothing inline and nothing from elsewhere: a name that slipped through escaping could still run nothing."""

SAFETY_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
}

MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def make_templates() -> Environment:
    """Return the templates: everything is escaped, and a name that is not there is an error."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        age=age,
        bytes=size,
        count=_count,
        duration=duration,
        number=number,
        plain=plain,
        shown=shown,
        shown_lines=shown_lines,
    )
    return environment


def draw(environment: Environment, template: str, **named: object) -> str:
    """Return a page as HTML; `named` are the names that the template reads, `page` and `head` first of all."""
    return environment.get_template(template).render(**named)


def message_page(
    environment: Environment,
    *,
    status: int,
    title: str,
    sentence: str,
    command: str = "",
    link: tuple[str, str] | None = None,
) -> HTMLResponse:
    """Return a page that says one thing: not signed in, not found."""
    html = environment.get_template("message.html").render(title=title, sentence=sentence, command=command, link=link)
    return HTMLResponse(html, status, headers={**SAFETY_HEADERS, "Cache-Control": "no-store"})


def answer(request: Request, html: str, *, is_over: bool = False) -> Response:
    """Return a page, or 304 where the browser has it; X-Live tells the page's script that nothing will change."""
    etag = f'"{hashlib.sha256(html.encode()).hexdigest()[:32]}"'
    headers = {
        **SAFETY_HEADERS,
        "Cache-Control": REVALIDATED,
        "ETag": etag,
        "X-Live": "over" if is_over else "on",
    }
    if request.headers.get("If-None-Match") == etag:
        return Response(status_code=304, headers=headers)
    return HTMLResponse(html, headers=headers)


def static_files() -> dict[str, Response]:
    """Return the files under /static by name."""
    return {path.name: _static(path) for path in sorted(STATIC.iterdir()) if path.suffix in MEDIA_TYPES}


def _static(path: Path) -> Response:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**SAFETY_HEADERS, "Cache-Control": "no-cache", "ETag": etag}
    return Response(content, media_type=MEDIA_TYPES[path.suffix], headers=headers)


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
