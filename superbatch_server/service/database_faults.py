"""What an error of the database means to a client, in one place: try again, make room, or correct the request."""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from superbatch_server.schemas.errors import ApiError, InsufficientStorage, Unavailable, Validation

DATABASE_ERRORS = (DBAPIError, PoolTimeout)

_DISK_FULL = "53100"
_OUT_OF_REACH = (OperationalError, InterfaceError, InternalError)
"""Away, starting, restarting, locked for longer than we wait, or about to be another server."""


def fault_of(error: Exception) -> ApiError | None:
    """Return what to answer to an error of the database; None when it is a fault of ours."""
    if _is_full(error):
        return InsufficientStorage(
            "the catalog must have room for what it is told; its disk is full (database). What was acknowledged is "
            "kept. Repeat the request when there is room."
        )
    if isinstance(error, DataError):
        return Validation(
            "texts and numbers must be such as the catalog can hold; got a NUL character, a longer text or a larger "
            "number (request). Correct it."
        )
    if isinstance(error, (PoolTimeout, *_OUT_OF_REACH)) or _is_cut_off(error):
        return Unavailable(
            "the catalog must answer; it did not (database). Repeat the request after a moment; the service's log has "
            "more."
        )
    return None


def _is_full(error: Exception) -> bool:
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) == _DISK_FULL or "disk is full" in str(cause)


def _is_cut_off(error: Exception) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated
