"""The base of every body, and the field types that several of them share."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError

Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A sha256 in 64 lower-case hexadecimal digits."""

RootName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
"""The name of a root, a deployment setting."""

ObjectId = Annotated[str, StringConstraints(pattern=r"^[a-z]+_[0-9a-f]{16}$")]
"""A server-made identity such as `job_0123456789abcdef`."""

MAX_COUNT = 1 << 40
"""Rows of a shard and batches of a job stay below; sums over all shards of a data set still fit 64 bits."""

_UNSAFE = re.compile(r"^[A-Za-z]:|[\\\x00-\x1f]|(^|/)\.{0,2}(/|$)")
"""A drive, a backslash, a control character, or a part that is empty, '.' or '..'."""


def safe_key(key: str) -> str:
    """Return the key, or raise a ValueError of the type `unsafe_key` when it could leave its root."""
    if _UNSAFE.search(key):
        message = (
            f"a key must be a relative path without '.', '..' or empty parts; got {key!r}. "
            "Name the object relative to its root, for example 'pool/000000.tar'"
        )
        raise PydanticCustomError("unsafe_key", "{message}", {"message": message})
    return key


Key = Annotated[str, StringConstraints(max_length=1024), AfterValidator(safe_key)]
"""An object's path inside its root."""


class Body(BaseModel):
    """A frozen body that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
