"""`select_batch` in one process and in several: the choice of `select`, and nothing touched that is the trainer's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from superbatch.formats.errors import InvalidInput
from superbatch.formats.uid import UID_BYTES
from superbatch.inline import (
    DualEmbeddings,
    SelectionPolicy,
    exchange_rows,
    index_uids,
    select_batch,
    select_flexi_batch,
)
from superbatch.selection import Candidates, SelectionSpec, select, slot_permutation
from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection, PeerFailed, TooFewCandidates
from tests.superbatch.selection import made
from tests.superbatch.selection.elsewhere import DEVICE, Elsewhere
from tests.superbatch.selection.world import World

B, B_SMALL = 96, 24
WHOLE = made.candidates(B, dtype=torch.float32)


def expected(whole: Candidates, **policy: Any) -> list[int]:
    """By the plain functions: the choice, then the order of slots."""
    fixed = {"method": "joint", "criterion": "learnability", "b": B_SMALL, "num_chunks": 16, "seed": 5, "seq": 9}
    chosen = select(whole, SelectionSpec(**(fixed | policy))).chosen_index  # type: ignore[arg-type]
    slots = slot_permutation(5, 9, uids=whole.uid[chosen], dataset_index=whole.dataset_index[chosen])
    return chosen[slots].tolist()


def selected(whole: Candidates, **changes: Any) -> torch.Tensor:
    given = {"b": B_SMALL, "seed": 5, "seq": 9, "uids": whole.uid} | changes
    return select_batch(given.pop("learner", whole.learner), given.pop("reference", whole.reference), **given)


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"method": "independent"},
        {"criterion": "easy_reference", "num_chunks": 3},
        {"loss": "softmax", "probe_size": 7, "gain": 2.0},
        {"sampling": "top_k", "weights": (1.0, 0.5), "max_cosine": 0.9},
        {"precision": "bf16"},
    ],
)
def test_the_choice_and_its_order_are_those_of_the_selection(policy: dict[str, Any]) -> None:
    found = selected(WHOLE, **policy)
    assert found.dtype == torch.int64
    assert found.tolist() == expected(WHOLE, **policy)


def test_a_policy_has_every_field_of_a_selection_but_those_that_are_given_by_name() -> None:
    names = {field.name for field in fields(SelectionSpec)} - {"b", "seed", "seq"}
    assert set(SelectionPolicy.__annotations__) == names


def test_a_small_batch_has_as_many_rounds_as_rows() -> None:
    found = selected(WHOLE, b=3)
    assert found.tolist() == selected(WHOLE, b=3, num_chunks=3).tolist()
    assert len(found) == 3


@pytest.mark.parametrize("kind", ["list", "numpy", "torch"])
def test_uids_come_as_a_trainer_has_them(kind: str) -> None:
    uids: Any = WHOLE.uid
    uids = {"list": [uid.tobytes() for uid in uids], "numpy": uids, "torch": torch.from_numpy(uids)}[kind]
    assert selected(WHOLE, uids=uids).tolist() == expected(WHOLE)


def test_rows_that_have_numbers_only_are_told_apart_by_them() -> None:
    numbers = torch.arange(1000, 1000 + B)
    uids = index_uids(numbers)
    assert uids[1].tobytes() == (1001).to_bytes(8, "little") + bytes(8)
    assert uids.shape == (B, UID_BYTES)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(0))
    first = numbers[selected(WHOLE, uids=uids)]
    shuffled = made.permuted(WHOLE, order.numpy())
    again = numbers[order][selected(shuffled, uids=index_uids(numbers[order]))]
    assert first.tolist() == again.tolist(), "the order of the candidates changes nothing"


def test_the_trainers_gradients_generator_and_autocast_are_left_alone() -> None:
    torch.manual_seed(3)
    tower = torch.nn.Linear(8, 8, bias=False)
    assert WHOLE.learner is not None
    image = torch.nn.functional.normalize(tower(WHOLE.learner.image), dim=1)
    text = torch.nn.functional.normalize(tower(WHOLE.learner.text), dim=1)
    scale = torch.tensor(3.0, requires_grad=True)
    loss = (image * text).sum() * scale.exp()
    loss.backward(retain_graph=True)
    assert tower.weight.grad is not None
    before, state = tower.weight.grad.clone(), torch.get_rng_state()
    learner = DualEmbeddings(image, text, scale.exp(), torch.tensor([-10.0]))  # type: ignore[arg-type]
    plain = selected(WHOLE, learner=learner)
    for policy in ({}, {"loss": "softmax", "softmax_score": "marginal"}):  # autocast would round the latter's products
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = selected(WHOLE, learner=learner, **policy)
        assert torch.equal(mixed, selected(WHOLE, learner=learner, **policy))
    assert torch.equal(tower.weight.grad, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert image.requires_grad
    assert torch.is_grad_enabled()
    (image[plain] * text[plain]).sum().backward()  # the forward of the chosen can still be trained on
    assert not torch.equal(tower.weight.grad, before)
    whole = Candidates(
        WHOLE.uid,
        WHOLE.dataset_index,
        learner=DualEmbeddings(image.detach(), text.detach(), scale.exp().item(), -10.0),
        reference=WHOLE.reference,
    )
    assert plain.tolist() == expected(whole)


def test_indices_lie_where_the_learner_lies_and_the_reference_is_brought_there() -> None:
    with Elsewhere():
        assert WHOLE.learner is not None
        learner = WHOLE.learner.map_towers(lambda tower: tower.to(DEVICE))
        found = selected(WHOLE, learner=learner, num_chunks=2)
        assert found.device == DEVICE
        assert sorted(found.cpu().tolist()) == sorted(expected(WHOLE, num_chunks=2))


def test_a_model_that_the_criterion_does_not_read_may_be_left_out() -> None:
    assert selected(WHOLE, learner=None, criterion="easy_reference").tolist() == expected(
        WHOLE, criterion="easy_reference"
    )
    assert selected(WHOLE, reference=None, criterion="hard_learner").tolist() == expected(
        WHOLE, criterion="hard_learner"
    )


def test_times_chosen_and_content_exclude_rows() -> None:
    times = torch.zeros(B, dtype=torch.int64)
    best = expected(WHOLE, sampling="top_k")
    times[best[0]] = 2
    assert best[0] not in selected(WHOLE, sampling="top_k", times_chosen=times, repetition_cap=2).tolist()
    content = WHOLE.uid.copy()
    content[best[1]] = content[best[2]]
    chosen = selected(WHOLE, sampling="top_k", content=content).tolist()
    assert len({best[1], best[2]} & set(chosen)) == 1


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"learner": None}, InvalidSelection, "learnability needs embeddings of the learner; got None"),
        ({"reference": None}, InvalidSelection, "needs embeddings of the reference; got None"),
        ({"learner": torch.ones(3)}, InvalidEmbeddings, r"must be DualEmbeddings\(.*got Tensor \(learner\)"),
        ({"uids": WHOLE.uid[:-1]}, InvalidSelection | InvalidEmbeddings, "95"),
        ({"uids": WHOLE.uid[:, :8]}, InvalidSelection, r"uids must be 16 bytes per row.*got uint8 \[96, 8\]"),
        ({"uids": [b"short"] * B}, InvalidSelection, r"got b'short' \(row 0\)"),
        ({"uids": list(range(B))}, InvalidSelection, r"got 0 \(row 0\).*index_uids"),
        ({"dataset_index": np.zeros(B, dtype=np.int64)}, InvalidSelection, "dataset_index 0 twice"),
        ({"dataset_index": np.zeros((B, 2))}, InvalidSelection, "dataset_index must be whole numbers"),
        ({"b": B + 1}, TooFewCandidates, r"needs at least 97 candidates; got 96"),
        ({"b": 0}, InvalidSelection, "b must be at least 1"),
        ({"b": 2.0}, InvalidSelection, "b must be at least 1"),
        ({"rounds": 3}, InvalidSelection, "a policy has the fields .*; got rounds"),
        ({"gain": -1.0}, InvalidSelection, "gain must be in"),
    ],
)
def test_what_cannot_be_selected_is_refused_by_name(changes: dict[str, Any], error: Any, said: str) -> None:
    with pytest.raises(error if isinstance(error, type) else (InvalidSelection, InvalidEmbeddings), match=said):
        selected(WHOLE, **changes)


def test_a_negative_row_number_is_refused() -> None:
    with pytest.raises(InvalidSelection, match="at least 0; got -3"):
        index_uids([1, -3])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(4) as world:
        yield world


def work(group: dist.ProcessGroup | None, part: Candidates, changes: dict[str, Any]) -> Any:
    """Select with the others, then bring each row of the batch to its rank."""
    group = group or dist.group.WORLD
    position_b = selected(part, group=group, **changes)
    rows = torch.from_numpy(part.dataset_index)
    pixels = torch.stack([rows, rows * 2], dim=1).to(torch.bfloat16)
    return position_b, exchange_rows(rows, position_b, group=group), exchange_rows(pixels, position_b, group=group)


def cut(whole: Candidates, sizes: list[int]) -> list[Candidates]:
    stops = np.cumsum(sizes)
    return [made.permuted(whole, np.arange(stop - size, stop)) for stop, size in zip(stops, sizes, strict=True)]


@pytest.mark.parametrize("sizes", [[48, 48], [96, 0], [24, 24, 24, 24], [50, 3, 30, 13]])
@pytest.mark.parametrize("policy", [{}, {"loss": "softmax"}])
def test_every_process_makes_the_choice_of_one_and_gets_the_rows_of_its_slots(
    world: World, sizes: list[int], policy: dict[str, Any]
) -> None:
    parts = cut(WHOLE, sizes)
    answers = world.ask(work, [(part, policy) for part in parts], group_of=None if len(parts) == 4 else 2)
    alone = expected(WHOLE, **policy)
    share = B_SMALL // len(parts)
    for rank, (position_b, rows, pixels) in enumerate(answers):
        assert position_b.tolist() == alone
        mine = WHOLE.dataset_index[alone[rank * share : (rank + 1) * share]]
        assert rows.tolist() == mine.tolist()
        assert pixels.dtype == torch.bfloat16
        assert pixels.tolist() == torch.from_numpy(np.stack([mine, mine * 2], axis=1)).to(torch.bfloat16).tolist()


def flexi_work(group: dist.ProcessGroup | None, part: Candidates, shares: tuple[float, ...]) -> Any:
    group = group or dist.group.WORLD
    return select_flexi_batch(
        part.learner, part.reference, shares=shares, b=B_SMALL, seed=5, seq=9, uids=part.uid, group=group
    )


def test_every_process_gives_the_same_variants_and_each_slice_the_same_mix(world: World) -> None:
    answers = world.ask(flexi_work, [(part, (0.5, 0.5)) for part in cut(WHOLE, [40, 56])], group_of=2)
    alone = select_flexi_batch(
        WHOLE.learner, WHOLE.reference, shares=(0.5, 0.5), b=B_SMALL, seed=5, seq=9, uids=WHOLE.uid
    )
    assert sorted(alone.positions.tolist()) == sorted(expected(WHOLE))
    for positions, variant in answers:
        assert positions.tolist() == alone.positions.tolist()
        assert variant.tolist() == alone.variant.tolist()
    for piece in alone.variant.split(B_SMALL // 12):
        assert piece.sum() == 1


def test_variants_that_do_not_divide_among_the_processes_are_refused(world: World) -> None:
    answers = world.ask(flexi_work, [(part, (0.875, 0.125)) for part in cut(WHOLE, [40, 56])], group_of=2)
    said = r"divisible by the 2 processes; got [21, 3] of b = 24"
    assert all(isinstance(answer, InvalidSelection) and said in str(answer) for answer in answers)
    with pytest.raises(InvalidInput, match="sum to 1"):
        select_flexi_batch(WHOLE.learner, WHOLE.reference, shares=(0.5,), b=4, seed=0, seq=0, uids=WHOLE.uid)


def test_a_batch_that_does_not_divide_among_the_processes_is_refused_by_all(world: World) -> None:
    answers = world.ask(work, [(part, {"b": 21}) for part in cut(WHOLE, [48, 48])], group_of=2)
    assert all("b must be divisible by world_size" in str(answer) for answer in answers)


def test_a_refusal_in_one_process_is_raised_in_all(world: World) -> None:
    parts = cut(WHOLE, [48, 48])
    bad = made.permuted(parts[1], np.arange(48))
    assert bad.learner is not None
    bad.learner.image[3] = float("nan")
    answers = world.ask(work, [(parts[0], {}), (bad, {})], group_of=2)
    assert all(isinstance(answer, (InvalidEmbeddings, PeerFailed)) for answer in answers)
    assert "must be finite" in str(answers[1])
