"""Selection from candidates that are split over the processes of a `torch.distributed` group.

Letters: B candidates of this process, A candidates of all processes, b chosen, k processes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from superbatch.selection.candidates import Candidates
from superbatch.selection.dispatch import select_among, used_models
from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection
from superbatch.selection.methods.meeting import Meeting
from superbatch.selection.methods.peers import Drawn
from superbatch.selection.methods.process_group import ProcessGroupPeers
from superbatch.selection.noise import NoiseSource
from superbatch.selection.spec import Selection, SelectionSpec

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass(frozen=True, eq=False)
class ShardedSelection:
    """The batch as every process sees it, and this process's own part.

    `chosen_position` are positions among all candidates, the parts counted one after the other in rank order, in order
    of choice; the same in every process. `start` is the position of this process's first candidate. `part` is the
    selection as this process holds it: `chosen_index` are its own chosen, by their position in its part.
    """

    chosen_position: Int[np.ndarray, " b"]
    start: int
    part: Selection


def select_sharded(
    part: Candidates,
    spec: SelectionSpec,
    *,
    group: dist.ProcessGroup | None = None,
    noise: NoiseSource | None = None,
) -> ShardedSelection:
    """Return the batch that `select` would choose from all parts together; every process of the group calls this.

    Each process scores its own candidates and proposes its own best; all sort the same proposals, and give each other
    the embeddings of those drawn. The choice is that of one process, but for scores that differ by less than the
    products round; on the CPU it is so bit by bit, in every type, where each part but the last holds a multiple of
    `pairs.block_threads.CANDIDATE_BLOCK` candidates, because then the same blocks are multiplied.

    Either every process returns or every process raises. A refusal in one of them is raised in all, with the process
    named, and the group may be used again. When a process dies, the others raise PeerFailed: those that were waiting
    for it at once, the rest when those exit, or when the group's time-out is over; then the group is of no use, and all
    processes must be started again. Give `timeout=` to `init_process_group`: torch waits 30 minutes with gloo.
    Args:
        part: the candidates of this process; there may be none, but the models must be given with [0, D] towers. A row,
            by its dataset_index, may be in one part only. All parts lie on the CPU, or each on its process's GPU.
        spec: the same in every process. Methods that need a matrix of all pairs (`gibbs`, and the marginal score of
            the softmax loss) are refused.
        group: an initialised process group; None = the default one. Gloo, or NCCL where each process has a GPU.
        noise: as for `select`, of this part's candidates.
    Returns: see `ShardedSelection`.
    Raises:
        as `select` does; and
        InvalidSelection: no process group, a spec that differs between processes, one row in two parts.
        InvalidEmbeddings: D, type, device, scale or bias of a model differ between processes.
        PeerFailed: another process failed by something else than a refusal, died or did not answer.
    Cost: each process 1/k of the products. Before the first round, 24 bytes per candidate are gathered in every process
        (the content and the dataset_index; 32 more where a content repeats). Per round, each process proposes n rows of
        32 bytes, and per tower that is read the n*D numbers of the new chosen are summed over the processes once, in
        the embeddings' own type: 4*n*D numbers for two models, never anything of length B. Softmax: the same once for
        the m rows of the probe; `max_cosine`: n*D numbers more, in float32 at least.
    Source: JEST (arXiv:2406.17711), Algorithm 1; how it is split is ours.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise InvalidSelection(
            "select_sharded needs a process group; got none (torch.distributed). "
            "Call torch.distributed.init_process_group in every process, or select in one process."
        )
    with Meeting(group) as meeting:
        peers = ProcessGroupPeers(part, meeting)
        _check_agreement(_terms(part, spec), meeting)
        start = _check_distinct(part, meeting)
        chosen = select_among(part, spec, noise=noise, peers=peers)
        return ShardedSelection(_positions(chosen, start=start, b=spec.b, peers=peers), start, chosen)


def _terms(part: Candidates, spec: SelectionSpec) -> dict[str, str]:
    """Return all that must be the same in every process, by where it is found."""
    terms = {f"selection.{field.name}": repr(getattr(spec, field.name)) for field in fields(spec)}
    terms["candidates.content"] = "none" if part.content is None else "given"
    terms["candidates.dataset_index"] = f"{part.dataset_index.dtype} of {part.dataset_index.ndim} dimensions"
    for name, _, model in used_models(part, spec):
        terms[f"{name}.D"] = str(list(model.image.shape[1:]))
        terms[f"{name}.type"] = f"{model.image.dtype} on {model.image.device.type}"
        terms[f"{name}.logit_scale"] = repr(model.logit_scale)
        terms[f"{name}.logit_bias"] = repr(model.logit_bias)
    return terms


def _check_agreement(terms: dict[str, str], meeting: Meeting) -> None:
    everyones = [json.loads(text) for text in meeting.all_gather_text("terms", json.dumps(terms))]
    for process, others in enumerate(everyones):
        for place in dict.fromkeys([*everyones[0], *others]):
            first, other = everyones[0].get(place, "none"), others.get(place, "none")
            if first != other:
                kind = InvalidSelection if place.startswith(("selection.", "candidates.")) else InvalidEmbeddings
                raise kind(
                    f"all processes must be given the same {place}; got {first} (process 0 of {len(everyones)}) and "
                    f"{other} (process {process}). Give it to all alike."
                )


def _check_distinct(part: Candidates, meeting: Meeting) -> int:
    """Return the position of this part's first row among all, having made sure that no row is in two parts."""
    sizes = meeting.sizes("gather_all", len(part))
    if part.dataset_index.dtype != np.int64 or part.dataset_index.ndim != 1:
        return 0  # refused with the other fields
    index_A = torch.cat(meeting.all_gather(torch.from_numpy(part.dataset_index), sizes)).numpy()
    stops = np.cumsum(sizes)
    order_A = np.argsort(index_A, kind="stable")
    same = np.flatnonzero(index_A[order_A[1:]] == index_A[order_A[:-1]])
    if same.size:
        places = order_A[same[0] : same[0] + 2]
        processes = np.searchsorted(stops, places, side="right")
        rows = [
            f"row {place - stops[process] + sizes[process]} of process {process}"
            for place, process in zip(places, processes, strict=True)
        ]
        raise InvalidSelection(
            f"a row may be a candidate once; got dataset_index {index_A[places[0]]} twice ({rows[0]}, {rows[1]}). "
            "Give each row to one process."
        )
    return int(stops[meeting.rank]) - len(part)


def _positions(chosen: Selection, *, start: int, b: int, peers: ProcessGroupPeers) -> Int[np.ndarray, " b"]:
    """Return where all chosen stand among all candidates, in order of choice."""
    index_m = torch.from_numpy(chosen.chosen_index)
    place_m = torch.arange(len(index_m)) if chosen.chosen_place is None else torch.from_numpy(chosen.chosen_place)
    positions: np.ndarray = peers.gather(index_m + start, Drawn(index_m, place_m, b)).numpy()
    return positions
