"""Brings data sets and models from VERIFYING to READY or INVALID, one at a time, by looking at their files.

Safe to repeat and to run in two supervisors at once: what a shard was found to hold is kept as it is found, and only
the first to finish changes the state.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from itertools import accumulate
from typing import cast

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from superbatch.formats.canonical import JsonValue, canonical_json
from superbatch.formats.digests import dataset_fingerprint, weak_shard_fingerprint
from superbatch.formats.errors import SuperbatchError
from superbatch.formats.tar import count_samples
from superbatch_server.schemas.datasets import Dataset, ShardEntry
from superbatch_server.schemas.errors import DigestMismatch, Internal, InvalidRequest, NotJson
from superbatch_server.schemas.models import FileRef, Model, ModelManifest
from superbatch_server.service.catalog import datasets, models
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.storage.roots import Root, find_root
from superbatch_server.storage.safetensors_header import SafetensorsHeader, read_safetensors_header

log = logging.getLogger("superbatch.verification")


def verify_pending(engine: Engine, roots: Mapping[str, Root]) -> bool:
    """Finish one data set or model that is VERIFYING; False when there is none."""
    with read(engine) as connection:
        dataset = datasets.pending_dataset(connection)
        model = None if dataset else models.pending_model(connection)
    if dataset is not None:
        _verify_dataset(engine, roots, dataset)
    elif model is not None:
        _verify_model(engine, roots, model)
    return dataset is not None or model is not None


@contextmanager
def _refusing(refuse: Callable[..., None], engine: Engine, object_id: str) -> Iterator[None]:
    """Make an object INVALID with what is wrong; one that we fail at ourselves must not hold up all that come after.

    A catalog that does not answer is nobody's fault: it is tried again.
    """
    try:
        yield
    except SQLAlchemyError:
        raise
    except Exception as error:
        if isinstance(error, SuperbatchError):
            code, message = error.code, str(error)
        else:
            log.exception("%s could not be verified", object_id)
            code = Internal.code
            message = (
                f"what is registered must be such that it can be read to its end; got {type(error).__name__} "
                f"({object_id}). Register it again; the service's log has the details."
            )
        with write(engine) as connection:
            refuse(connection, object_id, code=code, message=message)


def model_digest(manifest: ModelManifest) -> str:
    """Return the identity of a model: sha256 over family, roles and digests of its files; where they lie is no part."""
    files: dict[str, JsonValue] = {file.role: file.sha256 for file in manifest.files}
    text = canonical_json({"family": manifest.family, "files": files})
    return hashlib.sha256(b"superbatch-model-v1\0" + text).hexdigest()


def check_weights(roots: Mapping[str, Root], file: FileRef) -> SafetensorsHeader:
    """Return the header of a weights file that exists, has its digest and is safetensors; raise what is wrong.

    The header comes before the digest: a pickle is named as such, and a long file that is no weights is not read.
    """
    root = find_root(roots, file.root)
    size = root.stat(file.key).size
    with root.open(file.key) as stream:
        header = read_safetensors_header(stream, size=size, where=f"{file.root}/{file.key}")
    _check_digest(root, file.key, file.sha256)
    return header


def _verify_dataset(engine: Engine, roots: Mapping[str, Root], dataset: Dataset) -> None:
    with read(engine) as connection:
        shards = datasets.shard_entries(connection, dataset.id)
    with _refusing(datasets.refuse_dataset, engine, dataset.id):
        root = find_root(roots, dataset.manifest.root)
        found = [_verified_shard(engine, root, dataset.id, shard) for shard in shards]
        rows = [num_rows for num_rows, _ in found]
        if sum(rows) == 0:
            raise InvalidRequest(f"a data set must have rows; got {len(shards)} shards without any. Name other shards.")
        fingerprint = dataset_fingerprint(
            format=dataset.manifest.format,
            towers={"a": dataset.manifest.kind_a, "b": dataset.manifest.kind_b},
            caption_field=dataset.manifest.caption_field,
            shard_fingerprints=[shard_fingerprint for _, shard_fingerprint in found],
        )
        starts = list(accumulate(rows, initial=0))[:-1]
        with write(engine) as connection:
            datasets.finish_dataset(
                connection, dataset.id, fingerprint=fingerprint.hex(), start_indexes=starts, rows=sum(rows)
            )


def _verified_shard(engine: Engine, root: Root, dataset_id: str, shard: ShardEntry) -> tuple[int, bytes]:
    """Return rows and fingerprint of a shard; one that was verified before is not read again."""
    if shard.fingerprint is not None and shard.rows is not None:
        return shard.rows, bytes.fromhex(shard.fingerprint)
    stat = root.stat(shard.key)
    if shard.sha256 is not None:
        _check_digest(root, shard.key, shard.sha256)
        fingerprint = bytes.fromhex(shard.sha256)
    else:
        fingerprint = weak_shard_fingerprint(
            root.name, shard.key, etag=stat.etag, size=stat.size, mtime_ns=stat.mtime_ns or 0
        )
    rows = shard.rows if shard.rows is not None else _count_rows(root, shard.key)
    with write(engine) as connection:
        datasets.record_shard(connection, dataset_id, shard.shard_id, rows=rows, fingerprint=fingerprint.hex())
    return rows, fingerprint


def _count_rows(root: Root, key: str) -> int:
    with root.open(key) as stream:
        return count_samples(stream, where=f"{root.name}/{key}")


def _check_digest(root: Root, key: str, sha256: str) -> None:
    with root.open(key) as stream:
        found = hashlib.file_digest(cast("BufferedReader", stream), "sha256").hexdigest()
    if found != sha256:
        raise DigestMismatch(
            f"an object must have the sha256 under which it is registered, {sha256}; got {found} ({root.name}/{key}). "
            "Register it with its digest, or restore the file."
        )


def _verify_model(engine: Engine, roots: Mapping[str, Root], model: Model) -> None:
    with _refusing(models.refuse_model, engine, model.id):
        for file in model.manifest.files:
            if file.role == "weights":
                check_weights(roots, file)
            else:
                _check_json(roots, file)
        with write(engine) as connection:
            models.finish_model(connection, model.id, digest=model_digest(model.manifest))


def _check_json(roots: Mapping[str, Root], file: FileRef) -> None:
    root = find_root(roots, file.root)
    _check_digest(root, file.key, file.sha256)
    try:
        is_object = isinstance(json.loads(root.read(file.key)), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise NotJson(
            f"the {file.role} of a model must be a JSON object in UTF-8; got something else ({file.root}/{file.key}). "
            "Nothing executable is read: export it as JSON."
        )
