"""Model manifests: files by root and key, weights as safetensors, nothing executable."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from superbatch_server.schemas.base import Body, Key, RootName, Sha256Hex


class ModelState(StrEnum):
    """Where a model stands; only a READY one can be used by a job."""

    VERIFYING = "VERIFYING"
    READY = "READY"
    INVALID = "INVALID"


class FileRef(Body):
    """One file of a model or of a checkpoint."""

    role: Literal["weights", "config", "tokenizer", "processor"]
    root: RootName
    key: Key
    sha256: Sha256Hex


class ModelManifest(Body):
    """`POST /v1/models`. `weights` may be missing for a learner whose checkpoints are pushed."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=120)]
    family: Literal["tiny"] = Field(description="Which encoder implementation reads the files.")
    files: Annotated[list[FileRef], Field(min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _roles(self) -> ModelManifest:
        roles = [file.role for file in self.files]
        for role in ("config", "tokenizer"):
            if role not in roles:
                raise ValueError(f"files must hold one of role {role!r}; got {sorted(roles)}. Add it")
        if len(set(roles)) != len(roles):
            raise ValueError(f"each role may stand once in files; got {sorted(roles)}. Remove the second one")
        return self

    @property
    def has_weights(self) -> bool:
        """True when the model can embed without a pushed checkpoint."""
        return any(file.role == "weights" for file in self.files)


class Model(Body):
    """A registered model."""

    id: str
    name: str
    state: ModelState
    manifest: ModelManifest
    digest: Sha256Hex | None = Field(description="sha256 over family, roles and file digests.")
    error_code: str | None
    error: str | None
    created_at: str
