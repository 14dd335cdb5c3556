"""What both forms of inline selection share: the arguments as candidates and spec, and the choice with identities.

Letters: B candidates (of this process), b chosen.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from superbatch.inline.identities import Numbers, Uids, number_array, uid_array
from superbatch.selection.candidates import Candidates, DualEmbeddings
from superbatch.selection.criteria import Criterion
from superbatch.selection.dispatch import select
from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection
from superbatch.selection.sharded import ShardedSelection, select_sharded
from superbatch.selection.spec import (
    FirstRound,
    Loss,
    Method,
    Precision,
    Sampling,
    SelectionSpec,
    SoftmaxScore,
)

if TYPE_CHECKING:
    from jaxtyping import Int

DEFAULT_ROUNDS = 16
_RANK_STRIDE = 1 << 40


class SelectionPolicy(TypedDict, total=False):
    """How the batch is selected: the fields of `superbatch.selection.SelectionSpec`, with its defaults.

    `method` is joint, `criterion` learnability, `num_chunks` (N) 16 or, for a smaller batch, b.
    """

    method: Method
    criterion: Criterion
    num_chunks: int
    gain: float
    weights: tuple[float, float]
    sampling: Sampling
    loss: Loss
    probe_size: int | None
    first_round: FirstRound
    softmax_score: SoftmaxScore
    repetition_cap: int | None
    max_cosine: float | None
    precision: Precision
    num_iterations: int
    f: float | None


class Given(NamedTuple):
    """The arguments that say what the candidates are."""

    learner: DualEmbeddings | None
    reference: DualEmbeddings | None
    uids: Uids
    dataset_index: Numbers | None
    content: Uids | None
    times_chosen: Numbers | None


@dataclass(frozen=True, eq=False)
class Chosen:
    """The chosen in order of choice: where they stand, and what the slot order reads of them."""

    position: Int[np.ndarray, " b"]
    uid: np.ndarray
    dataset_index: Int[np.ndarray, " b"]


def choose(given: Given, spec: SelectionSpec, group: dist.ProcessGroup | None) -> tuple[Chosen, torch.device]:
    """Return the chosen, and the device of the embeddings."""
    learner, reference = _on_one_device(given.learner, given.reference)
    placed = reference if learner is None else learner
    device = torch.device("cpu") if placed is None else placed.image.device
    uid_B = uid_array(given.uids)
    index = given.dataset_index
    candidates = Candidates(
        uid=uid_B,
        dataset_index=_positions(len(uid_B), group) if index is None else number_array(index, name="dataset_index"),
        learner=learner,
        reference=reference,
        content=None if given.content is None else uid_array(given.content, name="content"),
        times_chosen=None if given.times_chosen is None else number_array(given.times_chosen, name="times_chosen"),
    )
    with torch.no_grad(), _without_autocast(device):
        return _select(candidates, spec, group, device), device


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keep a trainer's mixed precision out of the products."""
    if torch.amp.autocast_mode.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _select(
    candidates: Candidates, spec: SelectionSpec, group: dist.ProcessGroup | None, device: torch.device
) -> Chosen:
    if group is None:
        index_b = select(candidates, spec).chosen_index
        return Chosen(index_b, candidates.uid[index_b], candidates.dataset_index[index_b])
    return _shared(select_sharded(candidates, spec, group=group), candidates, group, device)


def _shared(found: ShardedSelection, candidates: Candidates, group: dist.ProcessGroup, device: torch.device) -> Chosen:
    """Give every process the identities of all chosen: each fills in its own rows, and the sum has them all."""
    own_m = found.part.chosen_index
    place_m = np.arange(len(own_m)) if found.part.chosen_place is None else found.part.chosen_place
    words_b3 = np.zeros((len(found.chosen_position), 3), dtype=np.int64)
    words_b3[place_m, :2] = candidates.uid[own_m].view(np.int64)
    words_b3[place_m, 2] = candidates.dataset_index[own_m]
    wire_b3 = torch.from_numpy(words_b3).to(device)
    dist.all_reduce(wire_b3, group=group)
    words_b3 = wire_b3.cpu().numpy()
    return Chosen(found.chosen_position, np.ascontiguousarray(words_b3[:, :2]).view(np.uint8), words_b3[:, 2])


def spec_of(b: int, seed: int, seq: int, policy: SelectionPolicy) -> SelectionSpec:
    """Return the spec of a policy with the defaults of `SelectionPolicy`.

    Raises:
        InvalidSelection: a field that is none of the policy's, or a value out of range.
    """
    unknown = sorted(policy.keys() - SelectionPolicy.__annotations__.keys())
    if unknown:
        raise InvalidSelection(
            f"a policy has the fields {', '.join(SelectionPolicy.__annotations__)}; got {', '.join(unknown)}. "
            "Check the spelling."
        )
    rounds = min(DEFAULT_ROUNDS, b) if isinstance(b, int) else DEFAULT_ROUNDS
    fields: dict[str, Any] = {"method": "joint", "criterion": "learnability", "num_chunks": rounds, **policy}
    return SelectionSpec(b=b, seed=seed, seq=seq, **fields)


def _on_one_device(
    learner: DualEmbeddings | None, reference: DualEmbeddings | None
) -> tuple[DualEmbeddings | None, DualEmbeddings | None]:
    """Return both models without gradients, the reference on the learner's device."""
    learner = None if learner is None else _detached(learner, name="learner", device=None)
    device = None if learner is None else learner.image.device
    return learner, None if reference is None else _detached(reference, name="reference", device=device)


def _detached(model: DualEmbeddings, *, name: str, device: torch.device | None) -> DualEmbeddings:
    if not isinstance(model, DualEmbeddings):
        raise InvalidEmbeddings(
            f"embeddings must be DualEmbeddings(image, text, logit_scale, logit_bias); got {type(model).__name__} "
            f"({name}). Wrap both towers and the model's logit scale and bias."
        )
    scale, bias = (
        value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        for value in (model.logit_scale, model.logit_bias)
    )
    moved = model.map_towers(lambda tower: _moved(tower, device) if isinstance(tower, Tensor) else tower)
    return DualEmbeddings(moved.image, moved.text, scale, bias)


def _moved(tower: Tensor, device: torch.device | None) -> Tensor:
    tower = tower.detach() if tower.requires_grad else tower
    return tower if device is None or tower.device == device else tower.to(device)


def _positions(num_rows: int, group: dist.ProcessGroup | None) -> Int[np.ndarray, " B"]:
    """Return numbers that differ over all processes, in the order of ranks and rows."""
    rank = 0 if group is None else dist.get_rank(group)
    return np.arange(num_rows, dtype=np.int64) + rank * _RANK_STRIDE
