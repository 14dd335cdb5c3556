"""The plan refuses what cannot be drawn; what is measured is the criterion of the batch as a set.

Letters: B candidates, b chosen, S criterion of every pair.
"""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest

from superbatch.formats.errors import InvalidInput
from superbatch.selection import Candidates, SelectionSpec, select
from superbatch.selection.dispatch import opened_problem
from superbatch.selection.methods.gibbs import GibbsChain
from superbatch.selection.methods.peers import OneProcess
from superbatch.selection.spec import Loss
from superbatch_server.preview.brute_force import BruteForce
from superbatch_server.preview.curves import Curves, batch_criterion, measure
from superbatch_server.preview.embedded import EmbeddedSample
from superbatch_server.preview.plan import Cell, Plan, largest_batch
from tests.preview.made import clustered_sample, hand_sample
from tests.superbatch.selection.plain import criterion_matrix, softmax_criterion

LEARNABLE = 2.7353
"""Learnability of a row of the hand case, in nats; see `hand_sample`."""


def measured(sample: EmbeddedSample, plan: Plan) -> Curves:
    return measure(sample, plan, on_progress=lambda *_: None)


def test_a_case_by_hand() -> None:
    # With a gain of 1e6 the noise decides nothing: of 40 rows the best 10 of the 20 learnable ones are taken. Of the 20
    # candidates at f = 0.5 some 10 are learnable; as many of them as there are join the batch, each for 2.7353 nats.
    plan = Plan(b=10, f=0.75, num_chunks=1, chunks=[1, 5], ratios=[0.75], num_seeds=2, gain=1e6, num_iterations=0)
    curves = measured(hand_sample(40), plan)
    for cell in (Cell(0.75, 1), Cell(0.75, 5)):
        assert curves.values[cell] == pytest.approx((LEARNABLE, LEARNABLE), abs=1e-4)
    for seed in range(2):
        of_half, of_none = curves.values[Cell(0.5, 1)][seed], curves.values[Cell(0.0, 1)][seed]
        for value in (of_half, of_none):
            num_learnable = (value / LEARNABLE + 1) * 5
            assert num_learnable == pytest.approx(round(num_learnable), abs=1e-3)
        assert -LEARNABLE <= of_none < of_half <= LEARNABLE + 1e-4


@pytest.mark.parametrize("criterion", ["learnability", "easy_reference", "hard_learner"])
def test_the_criterion_of_a_batch_is_that_of_the_set_over_its_rows(criterion: str) -> None:
    candidates = clustered_sample().candidates(np.arange(40))
    chosen = np.array([3, 30, 7, 21, 22, 23])
    plan = Plan(b=6, chunks=[1], num_chunks=1, criterion=criterion, num_iterations=0)  # type: ignore[arg-type]
    S_BB = criterion_matrix(candidates, criterion)
    assert batch_criterion(candidates, chosen, plan) == pytest.approx(S_BB[np.ix_(chosen, chosen)].sum() / 6, rel=1e-4)


def test_under_softmax_too() -> None:
    candidates = clustered_sample().candidates(np.arange(40))
    chosen = np.array([3, 30, 7, 21, 22, 23])
    plan = Plan(b=6, chunks=[1], num_chunks=1, loss="softmax", num_iterations=0)
    truth = softmax_criterion(candidates, plan.spec(Cell(0.8, 1), seed=0), chosen.tolist()) / 6
    assert batch_criterion(candidates, chosen, plan) == pytest.approx(truth, rel=1e-4)


def candidates_of(sample: EmbeddedSample, plan: Plan, seed: int) -> Candidates:
    """The super-batch that a seed draws at the plan's f."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(plan.b,))))
    return sample.candidates(rng.permutation(len(sample))[: round(plan.b / (1 - plan.f))])


def test_each_seed_selects_with_noise_of_its_own_from_candidates_of_its_own() -> None:
    plan = Plan(b=16, chunks=[1, 4], num_chunks=4, num_seeds=2, num_iterations=0)
    sample = clustered_sample()
    found = measured(sample, plan).values[Cell(0.8, 4)]
    for seed in range(2):
        candidates = candidates_of(sample, plan, seed)
        spec = SelectionSpec("joint", "learnability", b=16, num_chunks=4, seed=seed)
        assert found[seed] == batch_criterion(candidates, select(candidates, spec).chosen_index, plan)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_gibbs_is_the_mean_of_its_last_ten_sweeps(loss: Loss) -> None:
    plan = Plan(b=8, f=0.8, chunks=[1], num_chunks=1, num_seeds=2, loss=loss, num_iterations=100)
    sample = clustered_sample()
    run = measured(sample, plan).gibbs[1]
    candidates = candidates_of(sample, plan, 1)
    spec = SelectionSpec("gibbs", "learnability", b=8, num_chunks=1, seed=1, loss=loss, num_iterations=100)
    with opened_problem(candidates, spec, noise=None, peers=OneProcess()) as problem:
        steps = list(GibbsChain(problem).steps())
    # A sweep is 8 iterations of one member each, so ten sweeps are the last 80 of the 100.
    truth = fmean(batch_criterion(candidates, step.members, plan) for step in steps[21:])
    assert run.learnability == pytest.approx(truth, rel=1e-4)
    assert run.num_iterations == len(steps) - 1 == 100
    assert not run.is_flat


def test_a_chain_is_flat_where_it_stopped_early_or_just_in_time() -> None:
    def run(num_iterations: int) -> BruteForce:
        plan = Plan(b=2, chunks=[1], num_chunks=1, num_seeds=1, gain=0.0, num_iterations=num_iterations)
        return measured(clustered_sample(), plan).gibbs[0]

    whole = run(2000)
    assert whole.is_flat
    assert 40 <= whole.num_iterations < 2000
    assert run(whole.num_iterations) == whole
    assert not run(39).is_flat


def test_on_clusters_more_chunks_are_more_learnable_and_gibbs_most() -> None:
    # Margins between neighbouring N are above 5 standard errors of their paired differences over these seeds.
    plan = Plan(b=64, f=0.8, chunks=[1, 2, 4, 8], num_chunks=8, ratios=[0.8], num_seeds=3)
    curves = measured(clustered_sample(), plan)
    means = [fmean(curves.values[Cell(0.8, N)]) for N in plan.chunks]
    assert means == sorted(means)
    assert fmean(curves.unit_of_chunks) > means[-2]


def test_seeds_draw_other_candidates_and_a_seed_always_the_same() -> None:
    plan = Plan(b=16, chunks=[1, 4], num_chunks=4, ratios=[0.8], num_seeds=2, num_iterations=0)
    first, again = measured(clustered_sample(), plan), measured(clustered_sample(), plan)
    assert first == again
    assert len(set(first.values[Cell(0.0, 1)])) == 2


def test_f_0_is_one_uniform_batch_whatever_n_is() -> None:
    plan = Plan(b=16, chunks=[1, 4], num_chunks=4, ratios=[0.8], num_seeds=2, num_iterations=0)
    values = measured(clustered_sample(), plan).values
    assert values[Cell(0.0, 1)] == values[Cell(0.0, 4)]


def test_progress_never_goes_back_and_names_what_is_done() -> None:
    seen: list[tuple[float, str]] = []
    plan = Plan(b=16, chunks=[1, 4], num_chunks=4, ratios=[0.8], num_seeds=2, num_iterations=3)
    measure(clustered_sample(), plan, on_progress=lambda done, what: seen.append((done, what)))
    shares = [done for done, _ in seen]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert {"seed 1 of 2, f = 0.8, N = 4", "seed 2 of 2, Gibbs, iteration 3"} <= {what for _, what in seen}


def test_a_sample_that_is_too_small_is_refused_with_the_b_that_fits() -> None:
    with pytest.raises(InvalidInput, match=r"b = 64 at f up to 0.9 needs 640 rows; got 320 .* Lower b to 32,"):
        measured(clustered_sample(), Plan(b=64, num_iterations=0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratios": [0.5, 1.0]}, "must be in .0, 1.; got 1.0"),
        ({"f": -0.1}, "must be in .0, 1.; got -0.1"),
        ({"f": 0.0}, "nothing to choose"),
        ({"chunks": [1, 33]}, r"N must be in \[1, b\].* got 33"),
        ({"num_chunks": 0}, r"N must be in \[1, b\].* got 0"),
        ({"b": 0}, "b must be at least 1"),
        ({"num_seeds": 0}, "seeds must be in .1, 100.; got 0"),
        ({"num_iterations": -1}, "iterations must be at least 0; got -1"),
        ({"gain": float("nan")}, "gain must be in"),
        ({"b": 4096}, "at most 16,384 candidates; got B = 20,480"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_any_work(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Plan(**{"b": 32, **fields})  # type: ignore[arg-type]


def test_without_gibbs_b_is_not_bounded() -> None:
    assert Plan(b=4096, num_iterations=0).num_rows_needed == 40960


@pytest.mark.parametrize(
    ("num_rows", "ratios", "b"),
    [(5120, (0.8, 0.9), 512), (3504, (0.0, 0.5, 0.8, 0.9), 350), (10, (), 5), (1, (0.9,), 1), (7, (0.75,), 1)],
)
def test_the_default_b_is_the_largest_that_fits(num_rows: int, ratios: tuple[float, ...], b: int) -> None:
    assert largest_batch(num_rows, ratios) == b


@pytest.mark.parametrize("num_rows", range(20, 400, 7))
def test_the_default_b_always_fits(num_rows: int) -> None:
    ratios = (0.5, 0.8, 0.9)
    b = largest_batch(num_rows, ratios)
    plan = Plan(b=b, ratios=ratios, chunks=[1], num_chunks=1, num_iterations=0)
    assert plan.num_rows_needed <= num_rows
