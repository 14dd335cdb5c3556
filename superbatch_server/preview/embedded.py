"""A sample of a data set that is already embedded: the file a user brings, and what is refused in it.

Arrays of the file (.npz or .safetensors), for each of learner and reference that the criterion reads:

    learner_image, learner_text        [M, D] fp16, fp32 or fp64 (safetensors: bf16 too), each row of length 1
    learner_logit_scale                one number: t itself, not its logarithm
    learner_logit_bias                 one number; may be left out under the softmax loss, where it has no effect
    reference_image, ...               the same of the reference; D may differ between the models
    uid                                [M, 16] uint8, optional: what row is which content; equal uids are one content

Row i is the same pair in every array. Other arrays are not looked at.

Letters: M rows of the file, D width, B candidates.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from superbatch.formats.errors import InvalidInput
from superbatch.selection import Candidates, DualEmbeddings
from superbatch.selection.checks import checked_model

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

Arrays = Mapping[str, Tensor]

MODELS = ("learner", "reference")
SUFFIXES = (".npz", ".safetensors")


@dataclass(frozen=True, eq=False)
class EmbeddedSample:
    """M rows under learner and reference; either may be None where the criterion does not read it.

    `source` names the rows for people. `num_left_out` counts rows that are not among the M, per reason.
    """

    source: str
    uid: UInt8[np.ndarray, "M 16"]
    row: Int[np.ndarray, " M"]
    learner: DualEmbeddings | None
    reference: DualEmbeddings | None
    num_left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.uid)

    def model(self, name: str) -> DualEmbeddings | None:
        """Return the embeddings under `learner` or `reference`."""
        return {"learner": self.learner, "reference": self.reference}[name]

    def candidates(self, rows: Int[np.ndarray, " B"]) -> Candidates:
        """Return these rows of the sample as the candidates of a super-batch."""
        return Candidates(
            uid=self.uid[rows],
            dataset_index=self.row[rows],
            learner=None if self.learner is None else self.learner.take(rows),
            reference=None if self.reference is None else self.reference.take(rows),
        )

    def take(self, rows: Int[np.ndarray, " B"], *, left_out: Mapping[str, int]) -> EmbeddedSample:
        """Return the sample of these rows alone; `left_out` says how many were dropped, per reason."""
        part = self.candidates(rows)
        counts = {**self.num_left_out, **{reason: count for reason, count in left_out.items() if count}}
        return EmbeddedSample(self.source, part.uid, part.dataset_index, part.learner, part.reference, counts)


def read_embeddings(path: Path, *, models: Sequence[str], needs_bias: bool) -> EmbeddedSample:
    """Return the rows of a file of embeddings, checked.

    Args:
        path: .npz or .safetensors, arrays as in the module's docstring.
        models: which of learner and reference must be there; the other is not read.
        needs_bias: whether a missing logit bias is refused, as the sigmoid loss must, or read as 0.
    Raises:
        InvalidInput: the file cannot be read, an array is missing or has another shape than its rule.
        InvalidEmbeddings: a row that is not finite or not of length 1, by model, tower and row.
    Cost: the whole file in memory.
    """
    arrays = _read_arrays(path)
    found = {name: _model(arrays, name, needs_bias=needs_bias, path=path) for name in models}
    num_rows = {name: (len(model), len(model.text)) for name, model in found.items()}
    if len({count for counts in num_rows.values() for count in counts}) != 1:
        raise InvalidInput(
            f"row i must be the same pair in every array; got {num_rows} rows of (image, text) ({path}). "
            "Encode the same rows with both models."
        )
    uid_M = _uid(arrays, len(next(iter(found.values()))), path)
    row_M = np.arange(len(uid_M), dtype=np.int64)
    return checked_sample(EmbeddedSample(path.name, uid_M, row_M, found.get("learner"), found.get("reference")))


def checked_sample(sample: EmbeddedSample) -> EmbeddedSample:
    """Return the sample, having looked at every embedding once.

    Raises: InvalidEmbeddings, for a row that is not finite or not of length 1, by model, tower and row.
    """
    candidates = Candidates(uid=sample.uid, dataset_index=sample.row)
    for name in MODELS:
        if (model := sample.model(name)) is not None:
            checked_model(name, 1.0, model, candidates)
    return sample


def drawn_sample(sample: EmbeddedSample, *, num_rows: int) -> EmbeddedSample:
    """Return at most `num_rows` rows of distinct content, drawn at random; always the same rows of the same sample.

    Of rows with one uid the first is kept and the others are counted, because one content is never chosen twice.
    """
    _, first = np.unique(sample.uid, axis=0, return_index=True)
    distinct = np.sort(first)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(0, spawn_key=(len(sample),))))
    rows = np.sort(rng.permutation(distinct)[:num_rows])
    left_out = {"content of another row": len(sample) - len(distinct), "not drawn": len(distinct) - len(rows)}
    return sample.take(rows, left_out=left_out)


def write_embeddings(path: Path, sample: EmbeddedSample) -> None:
    """Write a sample as the .npz that `read_embeddings` reads."""
    arrays: dict[str, np.ndarray] = {"uid": sample.uid}
    for name in MODELS:
        if (model := sample.model(name)) is not None:
            arrays[f"{name}_image"], arrays[f"{name}_text"] = model.image.numpy(), model.text.numpy()
            arrays[f"{name}_logit_scale"] = np.array(model.logit_scale)
            arrays[f"{name}_logit_bias"] = np.array(model.logit_bias)
    path.parent.mkdir(parents=True, exist_ok=True)
    # numpy's type of savez knows no mapping of arrays beside its own options.
    np.savez(path, **arrays)  # type: ignore[arg-type]


def row_uid(row: int) -> bytes:
    """Return the uid of a row of a file that has none: every row is a content of its own."""
    return hashlib.sha256(b"superbatch-preview-row-v1\0" + row.to_bytes(8, "little")).digest()[:16]


def _read_arrays(path: Path) -> Arrays:
    if path.suffix not in SUFFIXES:
        raise InvalidInput(f"embeddings must be a file {' or '.join(SUFFIXES)}; got {path}. See docs/preview.md.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.atleast_1d(arrays[name])) for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise InvalidInput(
            f"embeddings must be a {path.suffix} file of plain arrays; {error} ({path}). Write it with "
            f"{'numpy.savez' if path.suffix == '.npz' else 'safetensors'}."
        ) from error


def _model(arrays: Arrays, name: str, *, needs_bias: bool, path: Path) -> DualEmbeddings:
    towers = [_array(arrays, f"{name}_{tower}", path) for tower in ("image", "text")]
    for tower, tower_MD in zip(("image", "text"), towers, strict=True):
        if tower_MD.ndim != 2 or not tower_MD.is_floating_point():
            raise InvalidInput(
                f"an embedding must be a float array [M, D]; got {tower_MD.dtype} {list(tower_MD.shape)} "
                f"(array {name}_{tower}, {path}). One row per pair."
            )
    if towers[0].dtype != towers[1].dtype or towers[0].shape[1] != towers[1].shape[1]:
        shown = ", ".join(f"{tower.dtype} {list(tower.shape)}" for tower in towers)
        raise InvalidInput(
            f"both towers of a model must be of one type and width; got image and text {shown} ({name}, {path})."
        )
    scale = _number(arrays, f"{name}_logit_scale", path)
    if not 0 < scale < 1e6:
        raise InvalidInput(
            f"a logit scale must be t itself, above 0 and finite; got {scale} (array {name}_logit_scale, {path}). "
            "Where the model stores log t, write its exponential."
        )
    without_bias = not needs_bias and f"{name}_logit_bias" not in arrays
    bias = 0.0 if without_bias else _number(arrays, f"{name}_logit_bias", path)
    if not abs(bias) < 1e6:
        raise InvalidInput(f"a logit bias must be finite; got {bias} (array {name}_logit_bias, {path}).")
    return DualEmbeddings(towers[0], towers[1], scale, bias)


def _number(arrays: Arrays, name: str, path: Path) -> float:
    array = _array(arrays, name, path)
    if array.numel() != 1:
        raise InvalidInput(f"{name} must be one number; got an array {list(array.shape)} ({path}).")
    return float(array.reshape(()))


def _array(arrays: Arrays, name: str, path: Path) -> Tensor:
    if name not in arrays:
        raise InvalidInput(
            f"a file of embeddings must hold the array {name}; got {', '.join(sorted(arrays)) or 'none'} ({path}). "
            "docs/preview.md lists the arrays; --criterion and --loss say which of them are read."
        )
    return arrays[name]


def _uid(arrays: Arrays, num_rows: int, path: Path) -> UInt8[np.ndarray, "M 16"]:
    if "uid" not in arrays:
        return np.frombuffer(b"".join(map(row_uid, range(num_rows))), dtype=np.uint8).reshape(num_rows, 16)
    uid_M = arrays["uid"]
    if uid_M.dtype != torch.uint8 or tuple(uid_M.shape) != (num_rows, 16):
        raise InvalidInput(
            f"uid must be uint8 [{num_rows}, 16]; got {uid_M.dtype} {list(uid_M.shape)} ({path}). "
            "Leave it out where rows have no identity: every row then counts as a content of its own."
        )
    return uid_M.numpy()
