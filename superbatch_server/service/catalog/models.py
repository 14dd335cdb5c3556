"""Models in the catalog: registered VERIFYING, then READY with a digest, or INVALID."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, RowMapping, delete, insert, or_, select, update

from superbatch_server.schemas.errors import InUse, ModelNotReady, NotFound
from superbatch_server.schemas.models import Model, ModelManifest, ModelState
from superbatch_server.service.catalog.clock import now_ms, rfc3339
from superbatch_server.service.catalog.pages import PageQuery, read_page
from superbatch_server.service.catalog.stored import stored
from superbatch_server.service.catalog.tables import jobs, models


def register_model(connection: Connection, manifest: ModelManifest) -> Model:
    """Add a model to be verified."""
    model_id = f"model_{secrets.token_hex(8)}"
    connection.execute(
        insert(models).values(
            id=model_id,
            name=manifest.name,
            state=ModelState.VERIFYING,
            manifest=stored(manifest),
            created_ms=now_ms(connection),
        )
    )
    return get_model(connection, model_id)


def get_model(connection: Connection, model_id: str) -> Model:
    """Return one model, or raise NotFound."""
    row = connection.execute(select(models).where(models.c.id == model_id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"a model must exist; got {model_id!r} (model). List them with GET /v1/models.")
    return _model(row)


def list_models(connection: Connection, query: PageQuery) -> tuple[list[Model], str | None]:
    """Return a page of models, newest first."""
    rows, token = read_page(connection, models, query)
    return [_model(row) for row in rows], token


def delete_model(connection: Connection, model_id: str) -> None:
    """Forget a model that no job refers to; its files stay."""
    get_model(connection, model_id)
    refers = or_(jobs.c.reference_id == model_id, jobs.c.learner_id == model_id)
    users = connection.execute(select(jobs.c.id).where(refers).limit(3)).scalars().all()
    if users:
        raise InUse(
            f"a model can be deleted when no job refers to it; got {', '.join(users)} (model {model_id}). "
            "Delete these jobs first."
        )
    connection.execute(delete(models).where(models.c.id == model_id))


def require_ready(model: Model) -> None:
    """Raise ModelNotReady, with what is wrong with an INVALID one, unless the model is READY."""
    if model.state is not ModelState.READY:
        remedy = model.error or "Wait until it is verified."
        raise ModelNotReady(f"a model must be READY; got {model.state} (model {model.id}). {remedy}")


def pending_model(connection: Connection) -> Model | None:
    """Return the oldest model that is still to be verified."""
    query = (
        select(models).where(models.c.state == ModelState.VERIFYING).order_by(models.c.created_ms, models.c.id).limit(1)
    )
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _model(row)


def finish_model(connection: Connection, model_id: str, *, digest: str) -> None:
    """Make a VERIFYING model READY; no effect when another supervisor came first."""
    _leave_verifying(connection, model_id, state=ModelState.READY, digest=digest)


def refuse_model(connection: Connection, model_id: str, *, code: str, message: str) -> None:
    """Make a VERIFYING model INVALID; no effect when another supervisor came first."""
    _leave_verifying(connection, model_id, state=ModelState.INVALID, error_code=code, error=message)


def _leave_verifying(connection: Connection, model_id: str, **values: str) -> None:
    pending = (models.c.id == model_id) & (models.c.state == ModelState.VERIFYING)
    connection.execute(update(models).where(pending).values(**values))


def _model(row: RowMapping) -> Model:
    return Model(
        id=row["id"],
        name=row["name"],
        state=ModelState(row["state"]),
        manifest=ModelManifest.model_validate_json(row["manifest"]),
        digest=row["digest"],
        error_code=row["error_code"],
        error=row["error"],
        created_at=rfc3339(row["created_ms"]),
    )
