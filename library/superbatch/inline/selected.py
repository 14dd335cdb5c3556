"""`select_batch` and its form with variants: one super-batch to the positions of its batch, in the trainer's processes.

Letters: B candidates (of this process), b chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Unpack

import torch
import torch.distributed as dist
from torch import Tensor

from superbatch.formats.variants import variant_counts
from superbatch.inline.choosing import Given, SelectionPolicy, choose, spec_of
from superbatch.inline.identities import Numbers, Uids
from superbatch.selection.candidates import DualEmbeddings
from superbatch.selection.errors import InvalidSelection
from superbatch.selection.slots import in_slots, slot_permutation

if TYPE_CHECKING:
    from jaxtyping import Int64


def select_batch(
    learner_embeddings: DualEmbeddings | None,
    reference_embeddings: DualEmbeddings | None,
    *,
    b: int,
    seed: int,
    seq: int,
    uids: Uids,
    dataset_index: Numbers | None = None,
    content: Uids | None = None,
    times_chosen: Numbers | None = None,
    group: dist.ProcessGroup | None = None,
    **policy: Unpack[SelectionPolicy],
) -> Int64[Tensor, " b"]:
    """Return the positions of the batch among the candidates, in slot order.

    The choice of `superbatch.selection.select` and the order of `slot_permutation`: what the service would publish for
    the same candidates, embeddings, seed and seq. Without `content` and `dataset_index`, which a trainer need not have,
    it is the same wherever no two candidates share a picture and no two a uid. Neither embeddings nor gradients are
    touched: the selection works on detached tensors, without autograd and outside of autocast, and draws from no
    generator of torch.
    Args:
        learner_embeddings: of the candidates under the model that is being trained, unit rows in any float type, on any
            device; None for criterion easy_reference. `logit_scale` is t itself: `model.logit_scale.exp().item()`.
        reference_embeddings: of the same rows, see `ReferenceCache.take`; moved to the learner's device where they lie
            elsewhere. None for criterion hard_learner.
        b: rows of the batch, over all processes.
        seed: of the run, the same for all its batches.
        seq: position of the batch in the run: the step.
        uids: identity of each candidate, 16 bytes.
        dataset_index: tells candidates of one uid apart; None = their position.
        content: 16 bytes per candidate of which the batch may hold each once, as the service's first 16 bytes of the
            picture's sha256; None = the uid.
        times_chosen: how often each candidate was chosen before, for `repetition_cap`.
        group: the candidates are split over the processes of this group, each of which calls this with its own part
            (`torch.distributed.group.WORLD`: all processes); None = all candidates are here.
        policy: see `SelectionPolicy`.
    Returns:
        int64 [b], on the device of the embeddings. With a group: positions among all candidates, the parts counted one
        after the other in rank order; the same in every process. Rank r trains slots [r*b/R, (r+1)*b/R): see
        `exchange_rows`.
    Raises:
        InvalidSelection, InvalidEmbeddings, TooFewCandidates: as `select` does, before any work.
        PeerFailed: with a group, when another process failed. Also when it refused its own uids or numbers and ended.
    Cost: the selection's, see `select`: 4 products of 2*B*b*D FLOPs for joint learnability. The forward that made the
        embeddings is the trainer's: F per candidate, where a step of training costs 3*F per row of the batch.
    Source: JEST (arXiv:2406.17711), Algorithm 1, with the current weights as the learner, as in the paper.
    """
    given = Given(learner_embeddings, reference_embeddings, uids, dataset_index, content, times_chosen)
    chosen, device = choose(given, spec_of(b, seed, seq, policy), group)
    slots_b = slot_permutation(seed, seq, uids=chosen.uid, dataset_index=chosen.dataset_index)
    return torch.from_numpy(chosen.position[slots_b]).to(device)


class FlexiBatch(NamedTuple):
    """Positions of a batch in slot order, and the variant of each: 0 = full."""

    positions: Int64[Tensor, " b"]
    variant: Int64[Tensor, " b"]


def select_flexi_batch(
    learner_embeddings: DualEmbeddings | None,
    reference_embeddings: DualEmbeddings | None,
    *,
    shares: Sequence[float],
    b: int,
    seed: int,
    seq: int,
    uids: Uids,
    dataset_index: Numbers | None = None,
    content: Uids | None = None,
    times_chosen: Numbers | None = None,
    group: dist.ProcessGroup | None = None,
    **policy: Unpack[SelectionPolicy],
) -> FlexiBatch:
    """Return the batch of `select_batch` with a variant for each row, every rank's slice holding the same mix.

    The rows are those of `select_batch`; their slots are stratified by variant, as in a batch list of a job with
    `selection.variants`. Train `positions[variant == 0]` of a slice at full resolution, the others at theirs, and join
    the embeddings before the loss.
    Args:
        shares: of the rows, one per variant, the full one first; see `superbatch.formats.variants.variant_counts`.
        learner_embeddings, reference_embeddings, b, seed, seq, uids, dataset_index, content, times_chosen, group,
            policy: as for `select_batch`.
    Returns: positions and variants, both int64 [b] on the device of the embeddings.
    Raises: as `select_batch`; and
        InvalidInput: shares that do not sum to 1, or a variant without a row.
        InvalidSelection: with a group, rows of a variant that are not divisible by its size.
    Source: JEST (arXiv:2406.17711), Flexi-JEST, whose learner also scores at low resolution: do so by embedding the
        super-batch at it.
    """
    counts = variant_counts(b, shares)
    world_size = 1 if group is None else dist.get_world_size(group)
    if any(count % world_size for count in counts):
        raise InvalidSelection(
            f"the rows of each variant must be divisible by the {world_size} processes; got {list(counts)} of b = {b}. "
            "Change b or the shares."
        )
    given = Given(learner_embeddings, reference_embeddings, uids, dataset_index, content, times_chosen)
    chosen, device = choose(given, spec_of(b, seed, seq, policy), group)
    slots_b, variant_b = in_slots(seed, seq, uids=chosen.uid, dataset_index=chosen.dataset_index, counts=counts)
    found = (torch.from_numpy(values).to(device) for values in (chosen.position[slots_b], variant_b))
    return FlexiBatch(*found)
