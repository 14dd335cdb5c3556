"""/docs: the OpenAPI document as one page, drawn here. Nothing is loaded from another host and no script runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, StrictUndefined

router = APIRouter(include_in_schema=False)

_POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
HEADERS = {
    "Content-Security-Policy": _POLICY + "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} API {{ version }}</title>
<link rel="icon" href="/static/mark.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/dashboard.css">
</head>
<body>
<main>
<h1>{{ title }} API {{ version }}</h1>
<p>{{ description }} The same as a document for programs: <a href="/openapi.json">openapi.json</a>.</p>
<p>Send <code>Authorization: Bearer TOKEN</code>. Every error is a body with a stable <code>code</code>.</p>
<nav aria-label="Groups"><ul>
{% for group in groups %}<li><a href="#{{ group.name }}">{{ group.name }}</a></li>
{% endfor %}</ul></nav>
{% for group in groups %}
<section id="{{ group.name }}">
<h2>{{ group.name }}</h2>
{% for operation in group.operations %}
<article id="{{ operation.anchor }}">
<h3><code>{{ operation.method }} {{ operation.path }}</code></h3>
<p>{% if operation.scope %}Scope <strong>{{ operation.scope }}</strong>.{% else %}Needs no credential.{% endif %}
{% for paragraph in operation.paragraphs %}{{ paragraph }}{% if not loop.last %}</p>
<p>{% endif %}{% endfor %}</p>
{% if operation.parameters %}
<table>
<caption>Parameters of {{ operation.method }} {{ operation.path }}</caption>
<thead><tr><th scope="col">name</th><th scope="col">in</th><th scope="col">form</th>
<th scope="col">meaning</th></tr></thead>
<tbody>{% for row in operation.parameters %}
<tr><th scope="row"><code>{{ row.name }}</code>{% if row.is_required %} (required){% endif %}</th>
<td>{{ row.place }}</td><td><code>{{ row.form }}</code></td><td>{{ row.meaning }}</td></tr>{% endfor %}
</tbody></table>
{% endif %}
{% if operation.body %}<p>Body: {{ operation.body }}</p>{% endif %}
<p>Answers: {% for answer in operation.answers %}{{ answer }}{% if not loop.last %}; {% endif %}{% endfor %}</p>
</article>
{% endfor %}
</section>
{% endfor %}
<section id="schemas">
<h2>Bodies</h2>
{% for name, text in schemas %}
<details id="schema-{{ name }}"><summary><code>{{ name }}</code></summary><pre tabindex="0">{{ text }}</pre></details>
{% endfor %}
</section>
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Parameter:
    """One line of an operation's table."""

    name: str
    place: str
    form: str
    meaning: str
    is_required: bool


@dataclass(frozen=True)
class Operation:
    """One request of the API."""

    method: str
    path: str
    scope: str | None
    paragraphs: list[str]
    parameters: list[Parameter]
    body: str
    answers: list[str]

    @property
    def anchor(self) -> str:
        """Where a link leads to."""
        return f"{self.method}-{self.path}".replace("{", "").replace("}", "").replace("/", "-")


@dataclass(frozen=True)
class Group:
    """The requests of one tag."""

    name: str
    operations: list[Operation]


@router.get("/docs")
def show_api(request: Request) -> HTMLResponse:
    """Show every request of the API."""
    app: FastAPI = request.app
    if not hasattr(app.state, "api_page"):
        app.state.api_page = draw_api(app.openapi())
    return HTMLResponse(app.state.api_page, headers=HEADERS)


def draw_api(document: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI document; every text in it is escaped."""
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(_PAGE)
    groups: dict[str, list[Operation]] = {}
    for tag, operation in _operations(document):
        groups.setdefault(tag, []).append(operation)
    schemas = document["components"]["schemas"]
    return template.render(
        **{name: document["info"][name] for name in ("title", "version", "description")},
        groups=[Group(name, operations) for name, operations in groups.items()],
        schemas=[(name, json.dumps(schemas[name], indent=2, sort_keys=True)) for name in sorted(schemas)],
    )


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, Operation]]:
    for path, operations in document["paths"].items():
        for method, entry in operations.items():
            answers = entry["responses"].items()
            yield (
                entry.get("tags", ["other"])[0],
                Operation(
                    method=method.upper(),
                    path=path,
                    scope=entry.get("x-superbatch-scope"),
                    paragraphs=str(entry.get("description", entry.get("summary", ""))).split("\n\n"),
                    parameters=[_parameter(each) for each in entry.get("parameters", [])],
                    body=_content(entry.get("requestBody", {})),
                    answers=[f"{status} {_content(answer)}".rstrip() for status, answer in sorted(answers)],
                ),
            )


def _parameter(entry: Mapping[str, Any]) -> Parameter:
    schema = entry.get("schema", {})
    meaning = entry.get("description") or schema.get("description") or ""
    return Parameter(entry["name"], entry["in"], _form(schema), meaning, bool(entry.get("required")))


def _content(entry: Mapping[str, Any]) -> str:
    kinds = entry.get("content", {})
    return ", ".join(f"{kind} {_form(each.get('schema', {}))}".rstrip() for kind, each in kinds.items())


def _form(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(_form(each) for each in schema["anyOf"])
    limits = [
        f"{sign}{schema[name]}"
        for name, sign in (("minimum", ">= "), ("maximum", "<= "), ("pattern", ""))
        if name in schema
    ]
    default = [f"default {schema['default']}"] if schema.get("default") is not None else []
    return " ".join([str(schema.get("type", "")), ", ".join(limits + default)]).strip()
