"""When rows of a batch were candidates before, and whether they were chosen then; a bounded look back.

Letters: n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from superbatch_server.service.scored_batches.scores import Scores

MAX_BATCHES = 64
"""Batches looked through in either direction."""

MAX_ROWS = 1_000_000
"""Candidates looked through in all."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A row was a candidate of batch `seq`."""

    seq: int
    was_chosen: bool


@dataclass(frozen=True)
class Search:
    """What was found, by dataset_index, and which batches were looked through."""

    found: dict[int, Seen]
    seqs: tuple[int, ...]


def nearest_candidacies(
    wanted_n: npt.NDArray[np.int64], seqs: Sequence[int], read: Callable[[int], Scores | None]
) -> Search:
    """Return for each wanted row the first of `seqs` in which it was a candidate.

    Stops when all are found, or after MAX_BATCHES batches or MAX_ROWS candidates.

    Args:
        wanted_n: dataset_index values.
        seqs: in the order of the search.
        read: None for a batch that cannot be read; it is left out of `Search.seqs`.
    """
    missing, found, looked_at, num_rows = np.unique(wanted_n), {}, [], 0
    for seq in seqs[:MAX_BATCHES]:
        if not len(missing) or num_rows >= MAX_ROWS:
            break
        scores = read(seq)
        if scores is None:
            continue
        looked_at.append(seq)
        num_rows += len(scores)
        for place in np.flatnonzero(np.isin(scores.dataset_index, missing)):
            found[int(scores.dataset_index[place])] = Seen(seq, bool(scores.chosen[place]))
        missing = missing[~np.isin(missing, scores.dataset_index)]
    return Search(found, tuple(looked_at))
