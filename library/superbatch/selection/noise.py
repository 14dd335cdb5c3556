"""Selection noise: a counter hash of (seed, seq, round, uid), so it depends on no order, device or generator state.

Letters: B uids. Rounds of a selection count from 1; three more rounds have their own use.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from superbatch.selection.errors import InvalidSelection

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, UInt, UInt64
    from torch import Tensor

PROBE_ROUND = 0
VARIANT_ROUND = 2**32 - 2
SLOT_ROUND = 2**32 - 1

_DOMAIN = b"superbatch-noise-v1\0"


def gumbel(seed: int, seq: int, *, round: int, uids: UInt[np.ndarray, "B _"]) -> Float[np.ndarray, " B"]:
    """Return one standard Gumbel variate per uid, the same wherever and in whatever order it is asked for.

    g = -log(-log u) with u = ((h >> 12) + 1/2) * 2^-52, h the hash of `noise_bits`. u has 52 bits so that neither 0
    nor 1 is reached and g is finite. Adding fresh g to log weights and taking the n largest draws n without
    replacement in proportion to the weights (the Gumbel-top-n trick).
    Args:
        seed: of the job, in [0, 2^64).
        seq: position of the batch in the job's log, in [0, 2^64).
        round: 1 for the first round, or PROBE_ROUND, VARIANT_ROUND, SLOT_ROUND; in [0, 2^32).
        uids: uint8 [B, 16] as stored, or uint64 [B, 2] holding (lo, hi), their two little-endian halves.
    Returns: fp64; about -3.6 to 36.
    Raises:
        InvalidSelection: a number that does not fit its field, or uids of another shape or type.
    Cost: about 60 ns per uid on one core; needs no scores, so it may be made ahead.
    Source: selection.md, "Joint selection, sigmoid".
    """
    uniform_B = ((noise_bits(seed, seq, round=round, uids=uids) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return np.asarray(-np.log(-np.log(uniform_B)))


def noise_bits(seed: int, seq: int, *, round: int, uids: UInt[np.ndarray, "B _"]) -> UInt64[np.ndarray, " B"]:
    """Return h = mix(mix(k ^ lo) ^ hi), 64 well-mixed bits per uid.

    k = the first 8 bytes, little-endian, of sha256("superbatch-noise-v1\\0" + u64le seed + u64le seq + u32le round);
    lo and hi are the uid's two little-endian halves; mix is the finaliser of SplitMix64. Integer arithmetic only: equal
    on every device.
    Args: as for `gumbel`.      Raises: as for `gumbel`.
    Source: selection.md; the finaliser is from Steele, Lea and Flood, "Fast splittable pseudorandom number generators".
    """
    key = np.uint64(_round_key(seed, seq, round))
    words_B2 = uid_words(uids)
    return _mix(_mix(key ^ words_B2[:, 0]) ^ words_B2[:, 1])


def uid_words(uids: UInt[np.ndarray, "B _"]) -> UInt64[np.ndarray, "B 2"]:
    """Return (lo, hi) of each uid; uint8 [B, 16] is split, uint64 [B, 2] is passed through."""
    if uids.ndim == 2 and uids.dtype == np.uint64 and uids.shape[1] == 2:
        return uids
    if uids.ndim == 2 and uids.dtype == np.uint8 and uids.shape[1] == 16:
        return np.ascontiguousarray(uids).view("<u8").astype(np.uint64, copy=False)
    raise InvalidSelection(f"uids must be uint8 [B, 16] or uint64 [B, 2]; got {uids.dtype} {list(uids.shape)}.")


def _round_key(seed: int, seq: int, round: int) -> int:
    for name, value, bits in (("seed", seed, 64), ("seq", seq, 64), ("round", round, 32)):
        if not 0 <= value < 2**bits:
            raise InvalidSelection(f"{name} must fit in {bits} bits without sign; got {value}. Use a smaller one.")
    counter = seed.to_bytes(8, "little") + seq.to_bytes(8, "little") + round.to_bytes(4, "little")
    return int.from_bytes(hashlib.sha256(_DOMAIN + counter).digest()[:8], "little")


def _mix(z_B: UInt64[np.ndarray, " B"]) -> UInt64[np.ndarray, " B"]:
    z_B = (z_B ^ (z_B >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z_B = (z_B ^ (z_B >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_B: np.ndarray = z_B ^ (z_B >> np.uint64(31))
    return mixed_B


class NoiseSource(Protocol):
    """Law: the same round gives the same noise, the Gumbel noise of `gumbel`."""

    def __call__(self, round_index: int) -> Float64[Tensor, " B"]:
        """Return one standard Gumbel variate per candidate."""
        ...


class GumbelNoise:
    """The noise of one selection's candidates, made when asked for, or ahead.

    It depends on no score, so a caller may make it while the embeddings are still being computed:
    `GumbelNoise(...).make_ahead(16)` before `select(..., noise=...)`.
    """

    def __init__(
        self, seed: int, seq: int, *, uids: UInt[np.ndarray, "B _"], device: torch.device | str = "cpu"
    ) -> None:
        self._seed, self._seq, self._uids, self._device = seed, seq, uids, device
        self._made: dict[int, Tensor] = {}

    def make_ahead(self, num_rounds: int) -> GumbelNoise:
        """Make and keep the noise of rounds 0 (the probe) to num_rounds: 8 bytes per round and candidate."""
        for round_index in range(num_rounds + 1):
            self._made[round_index] = self._make(round_index)
        return self

    def __call__(self, round_index: int) -> Float64[Tensor, " B"]:
        """Return the noise of a round."""
        return self._made[round_index] if round_index in self._made else self._make(round_index)

    def _make(self, round_index: int) -> Float64[Tensor, " B"]:
        return torch.from_numpy(gumbel(self._seed, self._seq, round=round_index, uids=self._uids)).to(self._device)
