"""Which rows each tar holds: the one layout in which a stock reader keeps joint batches whole.

R ranks, A micro-steps per optimizer step, W loader workers per rank, b rows of a batch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from superbatch.formats.errors import InvalidInput
from superbatch.formats.slices import slot_range

TAR_NAME_DIGITS = 8
_KEY = re.compile(r"(\d{12})-(\d{6})-([0-9a-f]{32})")
_TAR = re.compile(rf"(?:^|.*/)(\d{{{TAR_NAME_DIGITS}}})\.tar")


@dataclass(frozen=True, slots=True)
class TarPart:
    """What one tar holds: slots [slots.start, slots.stop) of batch `seq`, for one rank and micro-step."""

    seq: int
    rank: int
    micro: int
    slots: range


@dataclass(frozen=True, slots=True)
class TarLayout:
    """Numbers the tars of a job: tar (seq * A + micro) * R + rank holds what that rank trains on in that micro-step.

    A reader with R ranks gives tars r, R + r, 2R + r, ... to rank r, and these in turn to its W workers; the loader
    takes one batch from each worker in turn. With one loader batch per tar, the batches so come back in the order of
    the tars, whatever W is. With more rows per tar they would not, from W = 2 on.

    b: rows of a batch over all ranks.
    world_size: R.
    accumulation: A.
    """

    b: int
    world_size: int
    accumulation: int = 1

    def __post_init__(self) -> None:
        slot_range(self.b, 0, world_size=self.world_size, accumulation=self.accumulation)

    @property
    def rows_per_tar(self) -> int:
        """b / (R * A): what a trainer calls the batch size per GPU."""
        return self.b // (self.world_size * self.accumulation)

    @property
    def tars_per_batch(self) -> int:
        """R * A."""
        return self.world_size * self.accumulation

    def tar_indices(self, first_seq: int, stop_seq: int) -> range:
        """Return the indices of the tars of batches [first_seq, stop_seq)."""
        return range(first_seq * self.tars_per_batch, stop_seq * self.tars_per_batch)

    def part_of(self, tar_index: int) -> TarPart:
        """Return what tar `tar_index` holds.

        With b = 8, R = 2 and A = 1, tar 5 is batch 2, rank 1: slots 4 to 7.
        Raises:
            InvalidInput: a negative index.
        """
        if tar_index < 0:
            raise InvalidInput(f"a tar index must be at least 0; got {tar_index}. Count tars from 0.")
        step, rank = divmod(tar_index, self.world_size)
        seq, micro = divmod(step, self.accumulation)
        slots = slot_range(self.b, rank, world_size=self.world_size, accumulation=self.accumulation, micro=micro)
        return TarPart(seq, rank, micro, slots)


def tar_name(tar_index: int) -> str:
    """Return the name of a tar: 00000012.tar, so that names sort, and expand from {00000000..00000047}.tar.

    Raises:
        InvalidInput: an index that does not fit 8 digits.
    """
    if not 0 <= tar_index < 10**TAR_NAME_DIGITS:
        raise InvalidInput(
            f"a tar index must be in [0, 10^{TAR_NAME_DIGITS}); got {tar_index}. "
            "Export fewer batches, or for fewer ranks."
        )
    return f"{tar_index:0{TAR_NAME_DIGITS}d}.tar"


def tar_index_of(url: str) -> int:
    """Return the index of the tar that a path, or the last word of a `pipe:` command, names.

    Raises:
        InvalidInput: no name of `tar_name`.
    """
    found = [match for word in url.split() if (match := _TAR.fullmatch(word.strip("'\";")))]
    if not found:
        raise InvalidInput(
            f"a tar of a job must have a name like {tar_name(0)}; got {url[-120:]!r}. "
            "Use tars of `superbatch export-tars` or `superbatch serve-tars`."
        )
    return int(found[-1][1])


def tar_pattern(indices: range) -> str:
    """Return the names of consecutive tars in brace notation: {00000000..00000047}.tar."""
    first, last = tar_name(indices[0]), tar_name(indices[-1])
    return f"{{{first.removesuffix('.tar')}..{last.removesuffix('.tar')}}}.tar"


def sample_key(seq: int, slot: int, uid: bytes) -> str:
    """Return the key of a row: its place and its uid, without a dot; unique in the tar, and in the job.

    A row that was chosen twice has one key per place.
    """
    return f"{seq:012d}-{slot:06d}-{uid.hex()}"


def seq_of_key(key: str) -> tuple[int, int, bytes]:
    """Return (seq, slot, uid) of a key that `sample_key` wrote.

    Raises:
        InvalidInput: another key.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        raise InvalidInput(f"a key must be <seq>-<slot>-<uid>; got {key!r}. Use tars that Superbatch wrote.")
    return int(found[1]), int(found[2]), bytes.fromhex(found[3])
