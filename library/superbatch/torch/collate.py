"""Joining the samples of a micro-step into one dict that says which rows it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping

from torch.utils.data import default_collate

from superbatch.formats.errors import InvalidInput
from superbatch.formats.variants import positions_by_variant
from superbatch.torch.dataset import Sample, Samples, Unreadable
from superbatch.torch.rows import SLICE_KEY, BatchSlice

Batch = MutableMapping[str, object]
Collate = Callable[[list[Sample]], Batch]

HALVES_KEY = "variants"
"""The key of the parts of a batch, one per variant, under `split_variants`."""


class CuratedCollate:
    """Joins samples as `collate` does, and puts the BatchSlice beside them.

    Args:
        collate: joins a list of samples into a dict; torch's default_collate by default.
        num_variants: hand the parts of each variant apart, as {"variants": [full, low, ...]}; None joins all rows.
    """

    def __init__(self, collate: Collate | None = None, *, num_variants: int | None = None) -> None:
        self._collate: Collate = default_collate if collate is None else collate
        self._num_variants = num_variants

    def __call__(self, samples: Samples | Unreadable) -> Batch | Unreadable:
        """Return the batch of a micro-step; an Unreadable mark passes through.

        Raises:
            InvalidInput: `collate` returns no dict, or uses a key of ours.
        """
        if isinstance(samples, Unreadable):
            return samples
        batch = self._joined(samples)
        if not isinstance(batch, MutableMapping) or SLICE_KEY in batch:
            raise InvalidInput(
                f"a collate_fn must return a dict without the key {SLICE_KEY!r}; got {type(batch).__name__}. "
                "Let the transform return a dict, or give the parts of the batch names."
            )
        batch[SLICE_KEY] = samples.source
        return batch

    def _joined(self, samples: Samples) -> Batch:
        if self._num_variants is None:
            return self._collate(list(samples))
        parts = positions_by_variant(samples.variants, num_variants=self._num_variants)
        return {HALVES_KEY: [self._collate([samples[at] for at in part]) if part else {} for part in parts]}


def slice_of(batch: Mapping[str, object] | BatchSlice) -> BatchSlice:
    """Return which rows a batch holds.

    Raises:
        InvalidInput: the batch does not come from a curated loader, or lost its mark on the way.
    """
    found = batch if isinstance(batch, BatchSlice) else batch.get(SLICE_KEY)
    if not isinstance(found, BatchSlice):
        raise InvalidInput(
            f"a trained batch must carry what it holds under {SLICE_KEY!r}; got {type(found).__name__}. "
            "Pass the batch as the loader gave it, or keep batch.pop('superbatch') and pass that."
        )
    return found
