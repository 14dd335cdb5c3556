"""`superbatch tokens`: access tokens of limited scope, for trainers, dashboards and monitoring."""

from __future__ import annotations

import argparse

from superbatch.cli.client import Service
from superbatch.cli.errors import Exit
from superbatch.cli.text import table
from superbatch.formats.canonical import JsonObject
from superbatch.formats.json_fields import JsonFields

SCOPES = ("read", "trainer", "admin")

CREATE_HELP = """Make an access token. Its secret is printed once; the service keeps only a digest of it.

    superbatch tokens create --name trainer-a --scope trainer --expires-days 30
        for a training run: SUPERBATCH_TOKEN, or a file for --token-file

scopes: read looks at everything; trainer also reports progress and pushes checkpoints; admin does everything
"""


def add_parsers(parser: argparse.ArgumentParser, connection: argparse.ArgumentParser) -> None:
    """Describe `tokens create`, `tokens list` and `tokens delete`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="create | list | delete")
    create = verbs.add_parser(
        "create",
        help="make a token",
        parents=[connection],
        description=CREATE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    create.add_argument("--name", required=True, help="who it is for")
    create.add_argument("--scope", required=True, choices=SCOPES, help="what it may do")
    create.add_argument("--expires-days", type=float, metavar="DAYS", help="how long it is valid (until it is deleted)")
    create.set_defaults(run=create_token)
    verbs.add_parser("list", help="list tokens", parents=[connection]).set_defaults(run=list_tokens)
    delete = verbs.add_parser("delete", help="delete a token", parents=[connection])
    delete.add_argument("token", metavar="TOKEN", help="id of the token, as `tokens list` shows it")
    delete.set_defaults(run=delete_token)


def create_token(options: argparse.Namespace, service: Service) -> Exit:
    """Make a token and print its id and its secret."""
    body: JsonObject = {"name": options.name, "scope": options.scope, "expires_days": options.expires_days}
    made = service.post("/v1/tokens", body)
    print(made.text("id"))
    print(
        made.optional_text("secret") or "the answer was lost, and the secret with it: delete this token, make another"
    )
    return Exit.OK


def list_tokens(options: argparse.Namespace, service: Service) -> Exit:  # noqa: ARG001  (every command takes options)
    """Print every token."""
    headings = ("id", "name", "scope", "created", "expires")
    print(table(headings, [_row(item) for item in service.items("/v1/tokens", "tokens")]))
    return Exit.OK


def delete_token(options: argparse.Namespace, service: Service) -> Exit:
    """Delete a token; who holds it is refused from then on."""
    service.delete(f"/v1/tokens/{options.token}")
    print(f"{options.token}  deleted")
    return Exit.OK


def _row(token: JsonFields) -> tuple[str, ...]:
    expires = (token.optional_text("expires_at") or "never")[:19].replace("T", " ")
    ended = " (ended)" if token.boolean("is_expired") else ""
    created = token.text("created_at")[:19].replace("T", " ")
    return token.text("id"), token.text("name"), token.text("scope"), created, expires + ended
