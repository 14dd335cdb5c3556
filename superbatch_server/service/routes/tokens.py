"""Access tokens of limited scope: made, listed and deleted by whoever holds one of scope admin."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import Connection

from superbatch_server.schemas.base import Body
from superbatch_server.schemas.tokens import AccessToken, NewAccessToken, TokenRequest
from superbatch_server.service.catalog import access_tokens
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.idempotency import Answer, answer_once
from superbatch_server.service.context import Deployed
from superbatch_server.service.routes.answers import IdempotencyKey, Paged, json_response, keyed_request

router = APIRouter(prefix="/v1/tokens", tags=["tokens"])

_NO_STORE = {"Cache-Control": "no-store"}


class TokenList(Body):
    """One page, newest first; no secret is in it."""

    tokens: list[AccessToken]
    next_page_token: str | None


@router.post("", status_code=201, response_model=NewAccessToken)
def create_token(
    deployment: Deployed, request: Request, body: TokenRequest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Make a token; its secret is in this answer and nowhere else."""

    def make(connection: Connection) -> Answer:
        made = access_tokens.create_token(connection, body)
        without_secret = made.model_copy(update={"secret": None})
        return Answer(201, made.model_dump_json(), kept=without_secret.model_dump_json())

    answer = answer_once(deployment.engine, make, keyed_request(request, key=idempotency_key, body=body))
    return json_response(answer.body, status=answer.status, headers=_NO_STORE)


@router.get("", response_model=TokenList)
def list_tokens(deployment: Deployed, page: Paged) -> Response:
    """Return the access tokens, newest first; the deployment's own is not among them."""
    with read(deployment.engine) as connection:
        found, token = access_tokens.list_tokens(connection, page)
    return json_response(TokenList(tokens=found, next_page_token=token).model_dump_json(), headers=_NO_STORE)


@router.delete("/{token_id}", status_code=204)
def delete_token(deployment: Deployed, token_id: str) -> None:
    """Delete a token: here it is refused at once, by other API processes within a second."""
    with write(deployment.engine) as connection:
        access_tokens.delete_token(connection, token_id)
    deployment.known_tokens.forget()
