"""The covering set covers, and is small."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.conformance.cases import Case, cases_of, sample_batch_size
from superbatch.conformance.covering import covered_pairs, pairwise_cases
from superbatch.conformance.faults import Fault
from superbatch.formats.errors import InvalidInput

FACTORS = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(max_examples=15, deadline=None)
@given(FACTORS)
def test_every_two_values_meet(sizes: list[int]) -> None:
    factors = {f"factor {position}": list(range(size)) for position, size in enumerate(sizes)}
    cases = pairwise_cases(factors)
    wanted = set().union(
        *(covered_pairs(dict(zip(factors, values, strict=True))) for values in product(*factors.values()))
    )
    assert set().union(*map(covered_pairs, cases)) == wanted
    assert all(list(case) == list(factors) for case in cases)


def test_three_factors_of_two_values_need_four_cases() -> None:
    assert len(pairwise_cases({"a": [1, 2], "b": [1, 2], "c": [1, 2]})) == 4


def test_the_same_seed_gives_the_same_cases() -> None:
    factors = {"a": "xyz", "b": "pqr", "c": "uvw"}
    assert pairwise_cases(factors) == pairwise_cases(factors)


def of(which: str, world_sizes: tuple[int, ...] = (1, 2, 4)) -> list[Case]:
    return cases_of(which, world_sizes=world_sizes, workers=(0, 2), accumulations=(1, 2), num_steps=24)


def test_the_pairwise_set_has_at_most_twenty_cases_and_crosses_faults_with_sizes() -> None:
    cases = of("pairwise")
    assert len(cases) <= 20
    crossed = {(case.fault, case.first.world_size) for case in cases}
    assert len(crossed) == 15
    assert {(case.first.world_size, case.second.world_size) for case in cases} == set(product((1, 2, 4), repeat=2))
    assert all(8 < case.at_step <= 18 for case in cases)


def test_the_full_set_has_every_fault() -> None:
    assert {case.fault for case in of("full")} == set(Fault)


def test_the_quick_set_has_two_cases_of_the_largest_sizes() -> None:
    cases = of("quick")
    assert len(cases) == 2
    assert all(case.first.world_size == 4 and case.first.num_workers == 2 for case in cases)


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(InvalidInput, match="one of quick, pairwise, single, full"):
        of("all")


@pytest.mark.parametrize(
    ("world_sizes", "accumulations", "b"),
    [([1], [1], 16), ([1, 2, 4], [1, 2], 16), ([3], [1, 2], 18), ([5, 4], [1], 20)],
)
def test_the_batch_size_is_divisible_by_all_sizes(world_sizes: list[int], accumulations: list[int], b: int) -> None:
    assert sample_batch_size(world_sizes, accumulations) == b


def test_the_world_size_that_does_not_divide_does_not() -> None:
    for world_sizes in [(1,), (1, 2), (1, 2, 4), (3,), (2, 3)]:
        case = next(case for case in of("single", world_sizes) if case.fault is Fault.WORLD_SIZE)
        assert sample_batch_size(world_sizes, (1, 2)) % (case.first.world_size * case.first.accumulation)
