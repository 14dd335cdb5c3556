"""Pairwise covering sets: few cases in which every two values of different factors meet at least once."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations

_TRIES = 40
_SETS = 12
_Pair = frozenset[tuple[str, Hashable]]


def pairwise_cases(factors: Mapping[str, Sequence[Hashable]], *, seed: int = 0) -> list[dict[str, Hashable]]:
    """Return cases that cover every pair of values of two different factors.

    {"a": [1, 2], "b": [1, 2], "c": [1, 2]} needs 8 cases in full and 4 in pairs.

    Args:
        factors: the values of each factor, without repetition; a factor with one value is the same in all cases.
        seed: of the ties; the same seed gives the same cases.
    Returns:
        One dict per case, a value for each factor. At least as many cases as the two longest factors have pairs.
    Cost: the best of 12 sets, each of cases * 40 tries: about a second for eight factors of five values.
    Source: Cohen et al. 1997, "The AETG System"; we differ: the first free pair is always taken along, so that each
        case covers at least one pair and the loop ends.
    """
    if not _pairs_of(factors):
        return [{name: value for name, values in factors.items() for value in values[:1]}]
    return min((_one_set(factors, random.Random(f"{seed}:{n}")) for n in range(_SETS)), key=len)


def _one_set(factors: Mapping[str, Sequence[Hashable]], rng: random.Random) -> list[dict[str, Hashable]]:
    free = _pairs_of(factors)
    cases = []
    while free:
        first = min(free, key=lambda pair: sorted(map(repr, pair)))
        tries = [_grown(dict(first), factors, free, rng) for _ in range(_TRIES)]
        cases.append(max(tries, key=lambda case: len(free & covered_pairs(case))))
        free -= covered_pairs(cases[-1])
    return cases


def covered_pairs(case: Mapping[str, Hashable]) -> set[_Pair]:
    """Return the pairs of (factor, value) that one case covers."""
    return {frozenset(pair) for pair in combinations(case.items(), 2)}


def _pairs_of(factors: Mapping[str, Sequence[Hashable]]) -> set[_Pair]:
    return {
        frozenset(((one, a), (other, b)))
        for one, other in combinations(factors, 2)
        for a in factors[one]
        for b in factors[other]
    }


def _grown(
    case: dict[str, Hashable], factors: Mapping[str, Sequence[Hashable]], free: set[_Pair], rng: random.Random
) -> dict[str, Hashable]:
    """Return a case with the rest of its factors set, in random order, each to what covers most free pairs."""
    order = [name for name in factors if name not in case]
    rng.shuffle(order)
    for name in order:
        gains = [
            (sum(frozenset(((name, value), other)) in free for other in case.items()), rng.random(), index)
            for index, value in enumerate(factors[name])
        ]
        case[name] = factors[name][max(gains)[2]]
    return {name: case[name] for name in factors}
