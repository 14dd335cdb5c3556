"""The selection's own arithmetic: by hand, and counted while selections run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from superbatch.selection.cost.products import embedding_bytes, own_loss_flops, selection_flops, selection_passes
from superbatch.selection.losses import own_conditional_loss
from superbatch.selection.methods.independent import select_independent
from superbatch.selection.methods.joint import select_joint
from superbatch.selection.pairs.engine import PairReduction
from superbatch.selection.spec import SelectionSpec
from tests.superbatch.selection import made


class Counting:
    """Does what an engine does, and adds up the products' FLOPs."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.flops = 0
        self.calls = 0

    def reduce(self, requests: Sequence[PairReduction]) -> list[Tensor]:
        self.calls += 1
        self.flops += sum(2 * len(r.left) * len(r.right) * r.right.shape[1] for r in requests)
        return self.engine.reduce(requests)  # type: ignore[no-any-return]


def test_the_formula_of_the_specification() -> None:
    """4*2*B*b*(N-1)/N*D for two models of one width where N divides b, beside 2*B*D a model for the diagonal."""
    found = selection_flops(B=8192, b=1600, N=16, widths=[512, 512])
    assert found == 4 * 2 * 8192 * 1600 * 15 // 16 * 512 + 2 * (2 * 8192 * 512)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("criterion", "widths"), [("learnability", [8, 8]), ("easy_reference", [8])])
@pytest.mark.parametrize(("b", "N"), [(12, 4), (13, 5), (7, 7), (10, 1)])
@pytest.mark.parametrize("probe_size", [None, 5])
def test_a_joint_selection_does_as_many_flops(
    *, loss: Any, criterion: Any, widths: list[int], b: int, N: int, probe_size: int | None
) -> None:
    spec = SelectionSpec("joint", criterion, b=b, num_chunks=N, loss=loss, probe_size=probe_size)
    problem = made.problem(made.candidates(40), spec)
    counting = Counting(problem.engine)
    select_joint(replace(problem, engine=counting))  # type: ignore[arg-type]  # not used as a context manager here
    diagonal = 2 * 40 * sum(widths)
    found = selection_flops(B=40, b=b, N=N, widths=widths, loss=loss, probe_size=probe_size)
    assert counting.flops == found - diagonal


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_an_independent_one_does_only_the_probe(loss: Any) -> None:
    spec = SelectionSpec("independent", "learnability", b=12, num_chunks=4, loss=loss)
    problem = made.problem(made.candidates(40), spec)
    counting = Counting(problem.engine)
    select_independent(replace(problem, engine=counting))  # type: ignore[arg-type]
    assert counting.flops == selection_flops(B=40, b=12, N=4, widths=[8, 8], joint=False, loss=loss) - 2 * 40 * 16
    assert (counting.flops == 0) == (loss == "sigmoid")


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("N", [1, 2, 6])
def test_embeddings_are_read_for_the_diagonal_the_probe_and_each_round_but_the_last(*, N: int, loss: Any) -> None:
    spec = SelectionSpec("joint", "learnability", b=12, num_chunks=N, loss=loss)
    problem = made.problem(made.candidates(40), spec)
    counting = Counting(problem.engine)
    select_joint(replace(problem, engine=counting))  # type: ignore[arg-type]
    assert selection_passes(N=N, loss=loss) == 1 + counting.calls
    assert selection_passes(N=N, joint=False, loss=loss) == (1 if loss == "sigmoid" else 2)


def test_the_loss_columns_do_two_products_a_model() -> None:
    """Counted by torch, in this thread: with one thread the products run here."""
    members = made.candidates(40).learner
    assert members is not None
    with FlopCounterMode(display=False) as counted:
        own_conditional_loss(members)
    assert counted.get_total_flops() == own_loss_flops(b=40, widths=[8])
    assert own_loss_flops(b=10, widths=[8, 4]) == 2 * (2 * 10 * 10 * 8) + 2 * (2 * 10 * 10 * 4)


def test_embeddings_have_two_towers() -> None:
    assert embedding_bytes(rows=3, widths=[8, 4], bytes_per_number=2) == 3 * 2 * 12 * 2
