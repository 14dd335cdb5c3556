"""Joint selection under the softmax loss: every choice equals the slow one, and the laws of the method hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superbatch.selection import (
    DualEmbeddings,
    SelectionSpec,
    own_conditional_loss,
    probe_index,
    probe_loss,
    select,
    set_loss,
)
from superbatch.selection.methods.running import running_score
from tests.superbatch.selection import made, plain

CRITERIA = ("learnability", "easy_reference", "hard_learner")
SIZES = [(1, 1, 1), (6, 3, 2), (6, 6, 6), (20, 7, 3), (24, 10, 4), (30, 11, 5), (33, 16, 16), (26, 8, 1), (30, 29, 7)]


def softmax(**fields: Any) -> SelectionSpec:
    plainly = {"method": "joint", "criterion": "learnability", "b": 1, "num_chunks": 1, "loss": "softmax"}
    return SelectionSpec(**(plainly | fields))


def assert_equals_the_slow_selection(candidates: made.Candidates, spec: SelectionSpec) -> None:
    got = select(candidates, spec)
    chosen, rounds, score, perturbed = plain.select(candidates, spec)
    assert got.chosen_index.tolist() == chosen
    assert got.round.tolist() == rounds
    np.testing.assert_allclose(got.score, score, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.perturbed, perturbed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("B", "b", "num_chunks"), SIZES)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("sampling", ["gumbel", "top_k"])
def test_running_log_sum_exp_chooses_index_by_index_as_full_sums(
    B: int, b: int, num_chunks: int, criterion: str, sampling: str
) -> None:
    candidates = made.candidates(B, seed=B + b)
    spec = softmax(criterion=criterion, b=b, num_chunks=num_chunks, gain=3.0, weights=(1.0, 0.7), sampling=sampling)
    for probe_size in (None, 1, B):
        assert_equals_the_slow_selection(candidates, replace(spec, probe_size=probe_size, seed=5, seq=b))


@pytest.mark.parametrize(("B", "b", "num_chunks"), SIZES)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize(
    "fields", [{"softmax_score": "marginal"}, {"first_round": "diagonal"}], ids=lambda f: next(iter(f))
)
def test_options_choose_index_by_index_as_full_sums(
    B: int, b: int, num_chunks: int, criterion: str, fields: dict[str, str]
) -> None:
    spec = softmax(criterion=criterion, b=b, num_chunks=num_chunks, weights=(0.8, 1.0), seed=5, seq=b, **fields)
    assert_equals_the_slow_selection(made.candidates(B, seed=B + b), spec)


@pytest.mark.parametrize("method", ["joint", "independent", "greedy"])
def test_priors_and_masks_equal_the_slow_selection(method: str) -> None:
    rng = np.random.default_rng(0)
    prior = np.where(rng.random(30) < 0.2, -np.inf, rng.standard_normal(30))
    candidates = made.candidates(30, prior=prior, eligible=rng.random(30) < 0.8)
    assert_equals_the_slow_selection(candidates, softmax(method=method, b=9, num_chunks=4, seed=1))
    assert_equals_the_slow_selection(candidates, softmax(method=method, b=9, num_chunks=4, seed=1, probe_size=30))


@settings(max_examples=40, deadline=None)
@given(B=st.integers(2, 20), seed=st.integers(0, 1000), criterion=st.sampled_from(CRITERIA), data=st.data())
def test_conditional_score_is_the_own_loss_in_the_batch_with_i(
    B: int, seed: int, criterion: str, data: st.DataObject
) -> None:
    candidates = made.candidates(B, seed=seed, learner_scale=100.0, reference_scale=90.0)
    spec = softmax(criterion=criterion, weights=(0.7, 1.0))
    running = running_score(made.problem(candidates, spec))
    batch = add_in_two_rounds(running, B, data)
    for i in set(range(B)) - set(batch):
        parts = [
            (w, own_conditional_loss(model.take(np.array([*batch, i])), loss="softmax")[-1].item())
            for w, model in weighted(candidates, spec)
        ]
        scale = sum(abs(w) * loss for w, loss in parts)
        assert running.score()[i] == pytest.approx(sum(w * loss for w, loss in parts), rel=1e-9, abs=1e-9 * scale)


@settings(max_examples=40, deadline=None)
@given(B=st.integers(2, 16), seed=st.integers(0, 1000), criterion=st.sampled_from(CRITERIA), data=st.data())
def test_marginal_score_is_the_change_of_the_criterion_of_the_batch(
    B: int, seed: int, criterion: str, data: st.DataObject
) -> None:
    candidates = made.candidates(B, seed=seed, learner_scale=100.0, reference_scale=90.0)
    spec = softmax(criterion=criterion, weights=(0.7, 1.0), softmax_score="marginal")
    running = running_score(made.problem(candidates, spec))
    batch = add_in_two_rounds(running, B, data)
    before = plain.softmax_criterion(candidates, spec, batch)
    for i in set(range(B)) - set(batch):
        after = plain.softmax_criterion(candidates, spec, [*batch, i])
        losses = [
            abs(w) * plain.softmax_set_loss(L_BB, [*batch, i]) for w, L_BB in plain.weighted_logits(candidates, spec)
        ]
        assert running.score()[i] == pytest.approx(after - before, rel=1e-9, abs=1e-9 * sum(losses) + 1e-14)


def add_in_two_rounds(running: Any, B: int, data: st.DataObject) -> list[int]:
    order = data.draw(st.permutations(range(B)))
    first = data.draw(st.integers(1, B - 1))
    second = data.draw(st.integers(first, B - 1))
    for new in (order[:first], order[first:second]):
        if new:
            running.add(made.drawn(new))
    return order[:second]


def weighted(candidates: made.Candidates, spec: SelectionSpec) -> list[tuple[float, DualEmbeddings]]:
    models = (candidates.learner, candidates.reference)
    signed = zip(plain.SIGNS[spec.criterion], spec.weights, models, strict=True)
    return [(sign * weight, model) for sign, weight, model in signed if sign and model is not None]


@pytest.mark.parametrize("fields", [{}, {"probe_size": 7}, {"first_round": "diagonal"}, {"softmax_score": "marginal"}])
@pytest.mark.parametrize("sampling", ["gumbel", "top_k"])
def test_one_chunk_is_independent_selection_with_the_same_probe(sampling: str, fields: dict[str, Any]) -> None:
    candidates = made.candidates(120)
    spec = softmax(b=30, num_chunks=1, sampling=sampling, seed=3, **fields)
    joint = select(candidates, spec)
    alone = select(candidates, replace(spec, method="independent", num_chunks=7, softmax_score="conditional"))
    for field in ("chosen_index", "round", "score", "perturbed"):
        np.testing.assert_array_equal(getattr(joint, field), getattr(alone, field))


@pytest.mark.parametrize("probe_size", [None, 1, 5, 40])
def test_round_1_scores_by_the_loss_against_the_probe(probe_size: int | None) -> None:
    """The two loss columns that a service records explain the score of the first round."""
    candidates = made.candidates(40, eligible=np.arange(40) % 5 != 0)
    spec = softmax(method="independent", b=8, num_chunks=1, weights=(1.0, 0.6), probe_size=probe_size, seed=2)
    probe_m = probe_index(candidates, spec)
    assert sorted(probe_m.tolist()) == sorted(plain.probe(candidates, spec))
    assert len(probe_m) == min(probe_size or 8, 32)
    losses = [w * probe_loss(model, probe_m).numpy() for w, model in weighted(candidates, spec)]
    np.testing.assert_allclose(select(candidates, spec).score, sum(losses), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", ["joint", "independent"])
def test_a_copy_of_a_candidate_changes_nothing(method: Any) -> None:
    """Both have the same noise: were both in the probe, each would be scored against its own content."""
    alone = made.candidates(40)
    twice = made.permuted(alone, np.array([*range(40), *range(40)]))
    twice = replace(twice, dataset_index=np.concatenate([alone.dataset_index, alone.dataset_index + 1000]))
    spec = softmax(method=method, b=10, num_chunks=5 if method == "joint" else 1, seed=4)
    got, expected = select(twice, spec), select(alone, spec)
    np.testing.assert_array_equal(got.chosen_index, expected.chosen_index)
    np.testing.assert_allclose(got.score[:40], expected.score, rtol=1e-12)
    np.testing.assert_array_equal(probe_index(twice, spec), probe_index(alone, spec))


def test_excluded_candidates_change_nothing_as_if_they_were_no_candidates() -> None:
    rng = np.random.default_rng(1)
    eligible, prior = rng.random(60) < 0.6, np.where(rng.random(60) < 0.2, -np.inf, 0.0)
    masked = made.candidates(60, eligible=eligible, prior=prior)
    kept = np.flatnonzero(eligible & (prior == 0))
    spec = softmax(b=12, num_chunks=5, seed=8)
    without = replace(made.permuted(masked, kept), eligible=None, prior=None)
    got, expected = select(masked, spec), select(without, spec)
    np.testing.assert_array_equal(got.chosen_index, kept[expected.chosen_index])
    np.testing.assert_allclose(got.score[kept], expected.score, rtol=1e-12)


@pytest.mark.parametrize("method", ["joint", "independent", "greedy"])
@pytest.mark.parametrize("softmax_score", ["conditional", "marginal"])
def test_a_filter_ratio_of_0_returns_everything(method: str, softmax_score: str) -> None:
    spec = softmax(method=method, b=37, num_chunks=5, softmax_score=softmax_score)
    assert sorted(select(made.candidates(37), spec).chosen_index) == list(range(37))


@settings(max_examples=20, deadline=None)
@given(
    B=st.integers(1, 40),
    seed=st.integers(0, 1000),
    fields=st.sampled_from(
        [
            {},
            {"first_round": "diagonal"},
            {"softmax_score": "marginal"},
            {"method": "independent"},
            {"method": "greedy"},
        ]
    ),
    data=st.data(),
)
def test_permuting_the_candidates_permutes_the_choice(
    B: int, seed: int, fields: dict[str, Any], data: st.DataObject
) -> None:
    candidates = made.candidates(B, seed=seed)
    order = np.array(data.draw(st.permutations(range(B))))
    spec = softmax(b=(B + 1) // 2, num_chunks=min(3, (B + 1) // 2), seed=seed, **fields)
    first, second = select(candidates, spec), select(made.permuted(candidates, order), spec)
    np.testing.assert_array_equal(first.chosen_index, order[second.chosen_index])
    np.testing.assert_array_equal(first.round[order], second.round)


@settings(max_examples=20, deadline=None)
@given(
    bias=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    fields=st.sampled_from([{}, {"first_round": "diagonal"}, {"softmax_score": "marginal"}, {"method": "greedy"}]),
)
def test_a_bias_changes_no_bit(bias: tuple[float, float], fields: dict[str, Any]) -> None:
    candidates = made.candidates(30)
    assert candidates.learner is not None
    assert candidates.reference is not None
    biased = replace(
        candidates,
        learner=replace(candidates.learner, logit_bias=bias[0]),
        reference=replace(candidates.reference, logit_bias=bias[1]),
    )
    spec = softmax(b=9, num_chunks=4, **fields)
    first, second = select(candidates, spec), select(biased, spec)
    assert first.chosen_index.tolist() == second.chosen_index.tolist()
    assert first.score.tobytes() == second.score.tobytes()


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-0.9, 0.9), seed=st.integers(0, 100), softmax_score=st.sampled_from(["conditional", "marginal"]))
def test_a_constant_added_to_every_logit_changes_no_score(shift: float, seed: int, softmax_score: str) -> None:
    """One more dimension in which all images agree and all texts agree adds the same to every cosine."""
    candidates = made.candidates(25, seed=seed)
    spec = softmax(b=8, num_chunks=4, seed=seed, softmax_score=softmax_score)
    moved = replace(candidates, learner=shifted(candidates.learner, shift))
    first, second = select(candidates, spec), select(moved, spec)
    assert first.chosen_index.tolist() == second.chosen_index.tolist()
    np.testing.assert_allclose(first.score, second.score, rtol=1e-9, atol=1e-10)


def shifted(model: DualEmbeddings | None, shift: float) -> DualEmbeddings:
    """The same model with shift / (1 - |shift|) of its scale added to every logit."""
    assert model is not None
    keep = 1 - abs(shift)
    ones_B1 = torch.full((len(model), 1), abs(shift) ** 0.5, dtype=torch.float64)
    image = torch.cat([model.image * keep**0.5, ones_B1], dim=1)
    text = torch.cat([model.text * keep**0.5, ones_B1 * np.sign(shift)], dim=1)
    return DualEmbeddings(image, text, model.logit_scale / keep, model.logit_bias)


@settings(max_examples=25, deadline=None)
@given(
    B=st.integers(1, 40),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-3, 10.0, 200.0]),
    fields=st.sampled_from(
        [
            {},
            {"first_round": "diagonal"},
            {"softmax_score": "marginal"},
            {"method": "independent"},
            {"method": "greedy"},
        ]
    ),
    sampling=st.sampled_from(["gumbel", "top_k"]),
    equal=st.booleans(),
    data=st.data(),
)
def test_b_distinct_and_never_an_excluded_one(
    *, B: int, seed: int, scale: float, fields: dict[str, Any], sampling: str, equal: bool, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    prior = np.where(rng.random(B) < 0.3, -np.inf, 0.0)
    eligible = rng.random(B) < 0.9
    candidates = made.candidates(B, seed=seed, learner_scale=scale, dtype=torch.float32, prior=prior, eligible=eligible)
    if equal and candidates.learner is not None:
        one = candidates.learner.take(np.zeros(B, np.int64))
        candidates = replace(candidates, learner=one, reference=one)
    allowed = eligible & (prior == 0)
    if not allowed.any():
        return
    b = data.draw(st.integers(1, int(allowed.sum())))
    got = select(candidates, softmax(b=b, num_chunks=min(b, 4), sampling=sampling, seed=seed, **fields))
    assert len(set(got.chosen_index.tolist())) == len(got.chosen_index) == b
    assert allowed[got.chosen_index].all()
    assert np.isfinite(got.score).all()
    assert not np.isnan(got.perturbed).any()
    assert (np.isneginf(got.perturbed) == ~allowed).all()


@pytest.mark.parametrize(("precision", "shared"), [("native", 0.99), ("bf16", 0.97)])
def test_fp32_and_bf16_stay_within_their_error_budgets(precision: str, shared: float) -> None:
    """Of 8 selections of 102 out of 512 at t = 100, D = 64, with embeddings in fp32: the share of the choice that is
    that of fp64, and the learnability within 1% of it.

    Budget: in fp32 a logit of size 100 is off by 1e-5, and so is a score, whatever the number of its terms; only
    candidates whose perturbed scores lie that near to the cut change places. In bf16 the factors are off by 1/512 and
    a large logit by 1/256 of itself, so a score may be off by 0.4: of 102 one or two change places, with scores alike.
    """
    num_shared, learnability = 0, np.zeros(2)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        learner, reference = made.model(rng, 512, 64, noise=1.0), made.model(rng, 512, 64, noise=0.5)
        exact = replace(made.candidates(512, seed=seed), learner=learner, reference=reference)
        single = replace(
            exact, learner=learner.map_towers(torch.Tensor.float), reference=reference.map_towers(torch.Tensor.float)
        )
        spec = softmax(b=102, num_chunks=16, precision=precision)
        choices = [
            select(those, replace(spec, precision=p)).chosen_index
            for those, p in ((exact, "native"), (single, precision))
        ]
        num_shared += len(np.intersect1d(*choices))
        learnability += [
            set_loss(learner.take(chosen), loss="softmax") - set_loss(reference.take(chosen), loss="softmax")
            for chosen in choices
        ]
    assert num_shared >= shared * 8 * 102
    assert learnability[1] == pytest.approx(learnability[0], rel=0.01)
