"""No content twice and no two near images in a batch: every method equals a slow walk down the order of its round."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.selection import Candidates, Selection, SelectionSpec, TooFewCandidates, select
from superbatch.selection.dispatch import METHODS
from superbatch.selection.methods.duplicates import COSINE_ROUNDING, Duplicates, like_matrix, walk
from superbatch.selection.pairs.engine import PairReduction
from tests.superbatch.selection import made, plain

WALKING = ("joint", "independent", "uniform", "hard_negatives", "greedy")


def crowded(B: int, seed: int, *, num_places: int, spread: float, dtype: torch.dtype = torch.float64) -> Candidates:
    """Images around few places, contents drawn from few, some rows excluded by each of the three first rules."""
    rng = np.random.default_rng(seed)
    candidates = made.candidates(B, seed=seed, dtype=dtype, eligible=rng.random(B) < 0.95)
    assert candidates.reference is not None
    places = rng.standard_normal((num_places, 8))[rng.integers(0, num_places, B)]
    image_BD = made.unit_rows(places + spread * rng.standard_normal((B, 8)), dtype)
    return replace(
        candidates,
        reference=replace(candidates.reference, image=image_BD),
        uid=candidates.uid[np.where(rng.random(B) < 0.2, rng.integers(0, B, B), np.arange(B))],
        content=rng.integers(0, 256, (B, 16), dtype=np.uint8)[rng.integers(0, B, B)] if seed % 2 else None,
        prior=np.where(rng.random(B) < 0.05, -np.inf, rng.standard_normal(B)),
        times_chosen=rng.integers(0, 4, B),
    )


def assert_equals_the_slow_walk(candidates: Candidates, spec: SelectionSpec) -> bool:
    """Return whether the walk found b."""
    chosen, rounds, score, perturbed = plain.select(candidates, spec)
    if len(chosen) < spec.b:
        with pytest.raises(TooFewCandidates) as caught:
            select(candidates, spec)
        assert caught.value.num_eligible < spec.b
        return False
    got = select(candidates, spec)
    assert (got.chosen_index.tolist(), got.round.tolist()) == (chosen, rounds)
    np.testing.assert_allclose(got.score, score, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.perturbed, perturbed, rtol=1e-9, atol=1e-9)
    return True


@pytest.mark.parametrize("method", WALKING)
@pytest.mark.parametrize("sampling", ["gumbel", "top_k"])
@pytest.mark.parametrize(("num_places", "spread", "max_cosine"), [(30, 0.3, 0.9), (9, 0.2, 0.97), (200, 1.0, 0.6)])
def test_every_method_walks_down_the_order_of_its_round(
    method: str, sampling: str, num_places: int, spread: float, max_cosine: float
) -> None:
    found = 0
    for seed in range(6):
        candidates = crowded(28, seed, num_places=num_places, spread=spread)
        spec = SelectionSpec(
            method, "learnability", 7, 3, 0.4, sampling=sampling, seed=seed, repetition_cap=3, max_cosine=max_cosine
        )  # type: ignore[arg-type]
        found += assert_equals_the_slow_walk(candidates, spec)
        if method != "hard_negatives":
            found += assert_equals_the_slow_walk(candidates, replace(spec, max_cosine=None))
    assert found >= 4


@settings(max_examples=60, deadline=None)
@given(B=st.integers(1, 24), seed=st.integers(0, 10_000), b=st.integers(1, 12), at_once=st.sampled_from([1, 2, 3, 24]))
def test_how_many_are_proposed_at_once_changes_nothing(B: int, seed: int, b: int, at_once: int) -> None:
    candidates = crowded(B, seed, num_places=8, spread=0.25)
    candidates = replace(candidates, uid=made.candidates(B, seed=seed).uid, content=candidates.uid)
    spec = SelectionSpec("uniform", "learnability", b, 1, max_cosine=0.9)
    like_BB = plain.likeness(candidates, spec)
    duplicates, batch, left = Duplicates(made.problem(candidates, spec)), [], list(range(B))
    while left and len(batch) < b:
        accepted = duplicates.accept(made.drawn(left[: min(at_once, b - len(batch))])).index.tolist()
        batch += accepted
        left = [i for i in left if i not in accepted and not any(mask[i] for mask in duplicates.blocked.values())]
    assert batch == plain.first_apart(range(B), [], b, like_BB=like_BB)
    blocked = {i for mask in duplicates.blocked.values() for i in mask.nonzero().squeeze(1).tolist()}
    assert blocked == {i for i in range(B) if i not in batch and like_BB[i, batch].any()}


def test_a_copy_of_a_row_that_was_itself_skipped_may_come_in() -> None:
    """Row 1 is near row 0 and of one content with row 2. As row 1 does not come in, it keeps nobody out."""
    candidates = made.candidates(3, prior=np.array([200.0, 100.0, 0.0]))
    assert candidates.reference is not None
    content = candidates.uid.copy()
    content[2] = content[1]
    image_BD = made.unit_rows(np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]]), torch.float64)
    reference = replace(candidates.reference, image=image_BD, text=image_BD)
    candidates = replace(candidates, content=content, reference=reference)
    spec = SelectionSpec("uniform", "learnability", 2, 1, max_cosine=0.9)
    got = select(candidates, spec)
    assert got.chosen_index.tolist() == [0, 2]
    assert np.isneginf(got.perturbed).tolist() == [False, True, False]
    with pytest.raises(TooFewCandidates, match=r"got 2 of 3 .excluded: 0 by prior, 1 by content"):
        select(candidates, replace(spec, b=3))


class SeesNothingNear:
    """An engine whose rounding puts every pair below the threshold."""

    compute_dtype = torch.float64

    def reduce(self, requests: list[PairReduction]) -> list[torch.Tensor]:
        return [torch.full((len(request.left),), -1.0, dtype=torch.float64) for request in requests]


def test_what_was_skipped_is_blocked_whatever_the_engine_rounds_to() -> None:
    """Otherwise the same rows would be proposed for ever."""
    candidates = made.candidates(4)
    assert candidates.reference is not None
    same = replace(candidates.reference, image=candidates.reference.image[[0, 0, 2, 0]])
    candidates = replace(candidates, reference=same)
    problem = made.problem(candidates, SelectionSpec("uniform", "learnability", 2, 1, max_cosine=0.99))
    duplicates = Duplicates(replace(problem, engine=SeesNothingNear()))  # type: ignore[arg-type]
    assert duplicates.accept(made.drawn([0, 1, 2])).index.tolist() == [0, 2]
    assert duplicates.blocked["max_cosine"].tolist() == [False, True, False, False]


def test_more_than_one_square_matrix_of_proposals() -> None:
    B, b, max_cosine = 3000, 2200, 0.995
    candidates = crowded(B, 0, num_places=6000, spread=0.02)
    candidates = replace(candidates, eligible=None, prior=None, uid=made.candidates(B).uid)
    spec = SelectionSpec("uniform", "learnability", b, 1, max_cosine=max_cosine, seed=3)
    assert candidates.reference is not None
    like_BB = plain.image_cosines(candidates.reference) >= max_cosine
    noise_B = made.problem(candidates, spec).noise(1).numpy()
    batch: list[int] = []
    for i in np.argsort(-noise_B):
        if len(batch) < b and not like_BB[i, batch].any():
            batch.append(int(i))
    assert len(batch) == b
    assert like_BB.sum() - B > 1000
    assert select(candidates, spec).chosen_index.tolist() == batch


@given(size=st.integers(0, 9), bits=st.integers(0, 2**81 - 1))
def test_the_walk_skips_what_is_like_an_earlier_one_that_stayed(size: int, bits: int) -> None:
    like_nn = np.array([[bits >> (9 * i + j) & 1 for j in range(size)] for i in range(size)], bool).reshape(size, size)
    stayed: list[int] = []
    for i in range(size):
        if not any(like_nn[k, i] for k in stayed):
            stayed.append(i)
    assert walk(torch.from_numpy(like_nn)).nonzero().squeeze(1).tolist() == stayed


@pytest.mark.parametrize("without", ["reference", "learner"])
def test_near_is_judged_under_the_reference_and_without_one_under_the_learner(without: str) -> None:
    candidates = made.candidates(12)
    assert candidates.learner is not None
    assert candidates.reference is not None
    image_BD = candidates.reference.image.clone()
    image_BD[5] = image_BD[2]
    near = replace(candidates.reference, image=image_BD)
    apart = candidates.learner
    spec = SelectionSpec("uniform", "learnability", 12, 1, max_cosine=0.999)
    judged_by = {"reference": {"learner": near, "reference": None}, "learner": {"learner": apart, "reference": near}}
    with pytest.raises(TooFewCandidates, match=r"got 11 of 12 .excluded: 1 by max_cosine"):
        select(replace(candidates, **judged_by[without]), spec)  # type: ignore[arg-type]
    select(replace(candidates, learner=near, reference=apart), spec)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("precision", ["native", "bf16"])
def test_equal_images_are_near_at_a_threshold_of_1_in_every_type(dtype: torch.dtype, precision: str) -> None:
    """Rows stored in 16 bits are not of length 1, and products round: neither lets two equal images through."""
    B, width = 400, 64
    rng = np.random.default_rng(0)
    twice_BD = made.unit_rows(np.repeat(rng.standard_normal((B // 2, width)), 2, axis=0), dtype)
    reference = replace(made.model(rng, B, width, dtype=dtype), image=twice_BD)
    candidates = replace(made.candidates(B), learner=None, reference=reference)
    spec = SelectionSpec("independent", "easy_reference", B // 2, 1, max_cosine=1.0, precision=precision)  # type: ignore[arg-type]
    assert sorted(select(candidates, spec).chosen_index // 2) == list(range(B // 2))
    with pytest.raises(TooFewCandidates, match=f"{B // 2} by max_cosine"):
        select(candidates, replace(spec, b=B // 2 + 1))


def test_of_two_equal_rows_of_one_uid_the_smaller_dataset_index_comes_in() -> None:
    B = 5000
    rng = np.random.default_rng(0)
    of_pair_B = np.arange(B) % (B // 2)
    once = made.candidates(B, width=16, dtype=torch.float32)
    assert once.learner is not None
    assert once.reference is not None
    twice = replace(
        once, uid=once.uid[of_pair_B], learner=once.learner.take(of_pair_B), reference=once.reference.take(of_pair_B)
    )
    candidates = made.permuted(twice, rng.permutation(B))
    better_B = np.zeros(B, dtype=bool)
    better_B[np.lexsort((candidates.dataset_index, *candidates.uid.T))[::2]] = True
    for method in ("joint", "uniform", "independent"):
        for sampling in ("gumbel", "top_k"):
            spec = SelectionSpec(method, "learnability", B // 4, 3, sampling=sampling)  # type: ignore[arg-type]
            assert better_B[select(candidates, spec).chosen_index].all(), (method, sampling)


def assert_keeps_the_law(got: Selection, candidates: Candidates, spec: SelectionSpec, *, margin: float) -> None:
    B, chosen = len(candidates), got.chosen_index
    allowed_B = np.array([plain.may_be_chosen(candidates, i, repetition_cap=spec.repetition_cap) for i in range(B)])
    allowed_B &= [not plain.is_behind(candidates, spec, i) for i in range(B)]
    assert len(set(chosen.tolist())) == len(chosen) == spec.b
    assert allowed_B[chosen].all()
    assert (got.round[chosen] > 0).all()
    assert (got.round > 0).sum() == spec.b
    like_BB = plain.likeness(candidates, spec)
    among_bb = like_BB[np.ix_(chosen, chosen)]
    assert among_bb.sum() == spec.b  # the diagonal
    certain_B = ~allowed_B | (like_BB[:, chosen].any(1) & (got.round < 0))
    may_be = replace(spec, max_cosine=spec.max_cosine and spec.max_cosine - margin)
    possible_B = ~allowed_B | (plain.likeness(candidates, may_be)[:, chosen].any(1) & (got.round < 0))
    said_B = np.isneginf(got.perturbed)
    assert (certain_B <= said_B).all()
    assert (said_B <= possible_B).all()
    assert np.isfinite(got.score[allowed_B]).all()
    assert not np.isnan(got.perturbed).any()


@settings(max_examples=120, deadline=None)
@given(
    B=st.integers(1, 30),
    seed=st.integers(0, 10_000),
    method=st.sampled_from(sorted(METHODS)),
    loss=st.sampled_from(["sigmoid", "softmax"]),
    sampling=st.sampled_from(["gumbel", "top_k"]),
    scale=st.sampled_from([1e-3, 10.0, 200.0]),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
    max_cosine=st.sampled_from([None, 0.8, 0.95, 1.0]),
    all_equal=st.booleans(),
    data=st.data(),
)
def test_no_method_breaks_an_exclusion(
    *,
    B: int,
    seed: int,
    method: str,
    loss: str,
    sampling: str,
    scale: float,
    dtype: torch.dtype,
    max_cosine: float | None,
    all_equal: bool,
    data: st.DataObject,
) -> None:
    candidates = crowded(B, seed, num_places=12, spread=0.2, dtype=dtype)
    if all_equal:
        assert candidates.reference is not None
        one = candidates.reference.take(np.zeros(B, np.int64))
        candidates, max_cosine = replace(candidates, learner=one, reference=one), None
    assert candidates.learner is not None
    candidates = replace(candidates, learner=replace(candidates.learner, logit_scale=scale))
    if method == "hard_negatives":
        max_cosine = max_cosine or 1.0
    b = data.draw(st.integers(1, B))
    spec = SelectionSpec(
        method,
        "learnability",
        b,
        min(b, 4),
        loss=loss,
        sampling=sampling,
        seed=seed,
        repetition_cap=3,
        max_cosine=max_cosine,
        num_iterations=8,
    )  # type: ignore[arg-type]
    got = selected_or_too_few(candidates, spec)
    if isinstance(got, TooFewCandidates):
        assert got.num_eligible == B - sum(got.counts.values())
        assert got.num_eligible < b
    else:
        margin = COSINE_ROUNDING[torch.float64 if dtype == torch.float64 else torch.float32]
        assert_keeps_the_law(got, candidates, spec, margin=2 * margin)


def selected_or_too_few(candidates: Candidates, spec: SelectionSpec) -> Selection | TooFewCandidates:
    try:
        return select(candidates, spec)
    except TooFewCandidates as error:
        return error


@settings(max_examples=30, deadline=None)
@given(B=st.integers(8, 30), seed=st.integers(0, 10_000), method=st.sampled_from(sorted(METHODS)))
def test_permuting_the_candidates_permutes_the_choice_among_exclusions(B: int, seed: int, method: str) -> None:
    candidates = crowded(B, seed, num_places=30, spread=0.2)
    spec = SelectionSpec(method, "learnability", 3, 2, seed=seed, max_cosine=0.95, num_iterations=5)  # type: ignore[arg-type]
    order = np.random.default_rng(seed).permutation(B)
    first, second = (selected_or_too_few(those, spec) for those in (candidates, made.permuted(candidates, order)))
    if isinstance(first, TooFewCandidates) or isinstance(second, TooFewCandidates):
        assert str(first) == str(second)
        return
    np.testing.assert_array_equal(first.chosen_index, order[second.chosen_index])
    np.testing.assert_array_equal(np.isneginf(first.perturbed)[order], np.isneginf(second.perturbed))


def test_the_matrix_of_likeness_is_that_of_the_rules() -> None:
    candidates = crowded(40, 3, num_places=10, spread=0.2)
    for max_cosine in (None, 0.9):
        spec = SelectionSpec("uniform", "learnability", 3, 1, max_cosine=max_cosine)
        like_BB = like_matrix(made.problem(candidates, spec))
        assert like_BB is not None
        expected_BB = plain.likeness(candidates, spec) & ~np.eye(40, dtype=bool)
        np.testing.assert_array_equal(like_BB.numpy(), expected_BB)
        assert expected_BB.any()
    assert like_matrix(made.problem(made.candidates(5), SelectionSpec("uniform", "learnability", 3, 1))) is None


@pytest.mark.parametrize("width", [64, 512])
def test_an_image_that_is_there_twice_comes_once_where_only_the_learner_is_fp64(width: int) -> None:
    single = made.candidates(30, width=width, dtype=torch.float32)
    twice = made.permuted(single, np.arange(60) % 30)
    assert twice.learner is not None
    learner = twice.learner.map_towers(lambda tower: (tower / tower.norm(dim=1, keepdim=True)).double())
    rng = np.random.default_rng(5)
    uid, index = rng.integers(0, 256, (60, 16), dtype=np.uint8), np.arange(60)
    candidates = replace(twice, learner=learner, uid=uid, dataset_index=index)
    for seed in range(5):
        chosen = select(
            candidates, SelectionSpec("joint", "learnability", 24, 6, max_cosine=1.0, seed=seed)
        ).chosen_index
        assert len(set(chosen % 30)) == 24
