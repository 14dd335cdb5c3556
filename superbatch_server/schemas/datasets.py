"""Data-set manifests: what a user registers, and the immutable data set that comes of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from superbatch_server.schemas.base import MAX_COUNT, Body, Key, RootName, Sha256Hex

SourceLabel = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class DatasetState(StrEnum):
    """Where a data set stands; only a READY one can be curated."""

    VERIFYING = "VERIFYING"
    READY = "READY"
    INVALID = "INVALID"


class ShardRef(Body):
    """One shard, or a brace pattern `pool-{000000..000011}.tar` that stands for several."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=1024)] = Field(
        description="Path inside the root; a brace range expands in order."
    )
    source: SourceLabel = Field(default="default", description="Label by which filter ratios are reported.")
    sha256: Sha256Hex | None = Field(default=None, description="Digest of the shard; makes its identity portable.")
    rows: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = Field(
        default=None, description="Raw rows; counted when missing, checked by the index pass when given."
    )


class DatasetManifest(Body):
    """`POST /v1/datasets`."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=120)] = Field(description="Shown to people.")
    format: Literal["webdataset"] = Field(default="webdataset", description="Layout of the shards.")
    root: RootName = Field(description="Named root that holds the shards.")
    shards: Annotated[list[ShardRef], Field(min_length=1, max_length=100_000)]
    kind_a: Literal["image"] = Field(default="image", description="Kind of tower a.")
    kind_b: Literal["text"] = Field(default="text", description="Kind of tower b.")
    caption_field: Literal["txt"] = Field(default="txt", description="Tar suffix of the caption.")


class ShardEntry(Body):
    """One expanded shard; fingerprint and rows are known once it is verified."""

    shard_id: Annotated[int, Field(ge=0)]
    key: Key
    source: SourceLabel
    sha256: Sha256Hex | None
    rows: int | None
    start_index: int | None = Field(description="dataset_index of its first row.")
    fingerprint: Sha256Hex | None


class Dataset(Body):
    """A registered data set. It never changes after READY."""

    id: str
    name: str
    state: DatasetState
    manifest: DatasetManifest
    fingerprint: Sha256Hex | None
    rows: int | None
    num_shards: int
    error_code: str | None
    error: str | None
    created_at: str

    @model_validator(mode="after")
    def _ready_is_complete(self) -> Dataset:
        assert self.state is not DatasetState.READY or (self.fingerprint and self.rows is not None)
        return self
