"""Who may not be chosen: how many by which rule, and which candidates hold the same content; over all processes.

Letters: B candidates of this process, A candidates of all processes, S of them that may have a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from superbatch.selection.candidates import Candidates
from superbatch.selection.methods.peers import Peers
from superbatch.selection.spec import SelectionSpec

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64, UInt8, UInt64

# Any two odd numbers: rows that differ may mix to the same value, which costs time and changes nothing.
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


def count_by_rule(
    masks: Mapping[str, Bool[np.ndarray, " B"]], num_candidates: int, *, peers: Peers
) -> tuple[dict[str, int], Bool[np.ndarray, " B"]]:
    """Return how many candidates each rule excludes in all processes, and which of this process's are left.

    A candidate that several rules exclude counts for the first of them, so the counts and those left add up to all.
    """
    counts: dict[str, int] = {}
    left_B = np.ones(num_candidates, dtype=bool)
    for rule, mask_B in masks.items():
        counts[rule] = peers.total(int((left_B & mask_B).sum()))
        left_B &= ~mask_B
    return counts, left_B


def repeated(values: Int64[np.ndarray, " A"], *, device: torch.device) -> Int64[np.ndarray, " R"]:
    """Return the values that occur more than once, each as often as it does but once.

    Sorted on the device: on the host it takes one core 7 ms at A = 163,840, and the products of a GPU would wait.
    """
    if device.type == "cpu":
        ordered_A = np.sort(values)
        repeated_R: np.ndarray = ordered_A[1:][ordered_A[1:] == ordered_A[:-1]]
        return repeated_R
    on_device_A = torch.from_numpy(np.array(values)).to(device).sort().values
    return on_device_A[1:][on_device_A[1:] == on_device_A[:-1]].numpy(force=True)


@dataclass(frozen=True, eq=False)
class Copies:
    """The contents that several candidates hold, numbered from 0 without gaps over all processes.

    Per candidate of this process: `number` is the number of its content, -1 where no other candidate holds it;
    `is_behind` says that another one of the same content and the same uid goes before it.
    """

    number: Int64[np.ndarray, " B"]
    is_behind: Bool[np.ndarray, " B"]
    num_contents: int


def find_copies(
    candidates: Candidates, spec: SelectionSpec, *, peers: Peers, device: torch.device | None = None
) -> Copies | None:
    """Return which candidates hold a content that another one holds too; None where none does, as in most selections.

    The content of a candidate without one is its uid. All 16 bytes are compared. Rows of one uid and content have the
    same embeddings and the same noise, so one of them, that with the largest prior, then the smallest dataset_index,
    goes before the others; it is named here, since the rounding of scores may not tell.
    Args:
        candidates: let through by `checks.check_candidates`.
        spec: the repetition cap is read: an excluded row goes last.
        peers: hold the other candidates.
        device: where to sort; None = the CPU.
    Cost: one sort of A numbers where there are no copies, 0.2 ms at A = 8,192 and 10 ms at 163,840 on one core; where
        there are, an ordering of the rows in question. With peers, 16 bytes of each candidate are exchanged, and 32
        more where there are copies.
    """
    content = candidates.uid if candidates.content is None else candidates.content
    content_A2, start = _words_everywhere(content, peers=peers)
    number_A = _numbers(content_A2, device=device or torch.device("cpu"))
    if number_A is None:
        return None
    uid_A2, _ = _words_everywhere(candidates.uid, peers=peers)
    index_A, prior_A = (
        peers.gather_all(torch.from_numpy(np.array(own_B)))[0].numpy(force=True)
        for own_B in (candidates.dataset_index, candidates.log_prior(spec))
    )
    is_behind_A = _is_behind(number_A, uid_A2, prior_A, index_A)
    own = slice(start, start + len(content))
    return Copies(number_A[own], is_behind_A[own], int(number_A.max()) + 1)


def log_prior_without_copies(
    candidates: Candidates, spec: SelectionSpec, copies: Copies | None
) -> Float64[np.ndarray, " B"]:
    """Return the log of the prior weights, -inf for those that can never come in, whatever is chosen."""
    log_prior_B = candidates.log_prior(spec)
    if copies is not None:
        log_prior_B[copies.is_behind] = -np.inf
    return log_prior_B


def num_superfluous(copies: Copies, left: Bool[np.ndarray, " B"], *, peers: Peers) -> int:
    """Return how many of all processes' candidates `left` a batch must do without, as it takes each content once."""
    own = copies.number[left & (copies.number >= 0)]
    everywhere = peers.gather_all(torch.from_numpy(own))[0].numpy(force=True)
    return len(everywhere) - len(np.unique(everywhere))


def _words_everywhere(rows: UInt8[np.ndarray, "B 16"], *, peers: Peers) -> tuple[UInt64[np.ndarray, "A 2"], int]:
    """Return the two words of each row of all processes, and where this process's begin."""
    words_A2, start = peers.gather_all(torch.from_numpy(np.array(rows, order="C").view("<i8")))
    return words_A2.numpy(force=True).view("<u8"), start


def _is_behind(
    number_A: Int64[np.ndarray, " A"],
    uid_A2: UInt64[np.ndarray, "A 2"],
    prior_A: Float64[np.ndarray, " A"],
    index_A: Int64[np.ndarray, " A"],
) -> Bool[np.ndarray, " A"]:
    copy_S = np.flatnonzero(number_A >= 0)
    copy_S = copy_S[
        np.lexsort((index_A[copy_S], -prior_A[copy_S], uid_A2[copy_S, 1], uid_A2[copy_S, 0], number_A[copy_S]))
    ]
    same_S = (number_A[copy_S[1:]] == number_A[copy_S[:-1]]) & (uid_A2[copy_S[1:]] == uid_A2[copy_S[:-1]]).all(1)
    is_behind_A = np.zeros(len(number_A), dtype=bool)
    is_behind_A[copy_S[1:]] = same_S
    return is_behind_A


def _numbers(words_A2: UInt64[np.ndarray, "A 2"], *, device: torch.device) -> Int64[np.ndarray, " A"] | None:
    mixed_A = (words_A2[:, 0] * _MIX[0] + words_A2[:, 1] * _MIX[1]).view(np.int64)
    repeated_R = repeated(mixed_A, device=device)
    if not repeated_R.size:
        return None
    suspect_S = np.flatnonzero(np.isin(mixed_A, repeated_R))
    suspect_S = suspect_S[np.lexsort((words_A2[suspect_S, 1], words_A2[suspect_S, 0]))]
    words_S2 = words_A2[suspect_S]
    is_repeated_S = (words_S2[1:] == words_S2[:-1]).all(1)
    is_copy_S = np.append(is_repeated_S, False) | np.append(False, is_repeated_S)
    if not is_copy_S.any():
        return None
    is_first_S = is_copy_S & ~np.append(False, is_repeated_S)
    number_A = np.full(len(words_A2), -1, dtype=np.int64)
    number_A[suspect_S[is_copy_S]] = (np.cumsum(is_first_S) - 1)[is_copy_S]
    return number_A
