"""Candidates split over 2 and over 4 real processes: the choice of one process, and refusals that all of them raise."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from superbatch.selection import (
    Candidates,
    SelectionSpec,
    ShardedSelection,
    map_embeddings,
    select,
    select_sharded,
    write_tower,
)
from superbatch.selection.errors import InvalidEmbeddings, InvalidSelection, PeerFailed, TooFewCandidates
from superbatch.selection.methods.meeting import Meeting, wire_device
from superbatch.selection.methods.process_group import ProcessGroupPeers
from superbatch.selection.pairs.block_threads import CANDIDATE_BLOCK
from tests.superbatch.selection import made
from tests.superbatch.selection.world import Silence, World

SPEC = SelectionSpec("joint", "learnability", 23, 4, seed=3)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(4) as world:
        yield world


def work(group: dist.ProcessGroup | None, part: Candidates, spec: SelectionSpec) -> ShardedSelection:
    return select_sharded(part, spec, group=group)


def cut(whole: Candidates, sizes: Sequence[int]) -> list[Candidates]:
    """Parts of these sizes, one after the other."""
    stops = np.cumsum(sizes)
    assert stops[-1] == len(whole)
    return [made.permuted(whole, np.arange(stop - size, stop)) for stop, size in zip(stops, sizes, strict=True)]


def ask(world: World, parts: Sequence[Candidates], spec: SelectionSpec) -> list[Any]:
    return world.ask(work, [(part, spec) for part in parts], group_of=None if len(parts) == 4 else len(parts))


def assert_same(answers: Sequence[Any], whole: Candidates, spec: SelectionSpec, *, in_every_bit: bool = False) -> None:
    expected = select(whole, spec)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
        np.testing.assert_array_equal(answer.chosen_position, expected.chosen_index)
        stop = answer.start + len(answer.part.round)
        np.testing.assert_array_equal(answer.part.round, expected.round[answer.start : stop])
        own = answer.chosen_position[(answer.chosen_position >= answer.start) & (answer.chosen_position < stop)]
        np.testing.assert_array_equal(answer.part.chosen_index + answer.start, own)
        for field in ("score", "perturbed"):
            mine, theirs = getattr(answer.part, field), getattr(expected, field)[answer.start : stop]
            if in_every_bit:
                assert mine.tobytes() == theirs.tobytes()
            else:
                np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)
    assert [answer.start for answer in answers] == list(np.cumsum([0, *(len(a.part.round) for a in answers[:-1])]))


def random_fields(whole: Candidates) -> Candidates:
    rng, B = np.random.default_rng(9), len(whole)
    return replace(
        whole,
        prior=np.where(rng.random(B) < 0.2, -np.inf, rng.standard_normal(B)),
        eligible=rng.random(B) < 0.9,
        times_chosen=rng.integers(0, 3, B),
    )


def with_copies(whole: Candidates) -> Candidates:
    """Every content is there three times, far apart."""
    content = whole.uid.copy()
    third = len(whole) // 3
    content[third : 2 * third] = content[2 * third : 3 * third] = content[:third]
    return replace(whole, content=content)


def with_near_copies(whole: Candidates) -> Candidates:
    """The second half looks like the first, in other places."""
    half = len(whole) // 2
    order = np.concatenate([np.arange(half), np.random.default_rng(4).permutation(half)])
    return replace(whole, learner=whole.learner, reference=made.permuted(whole, order).reference)


WHOLE = made.candidates(90, seed=1)
EQUAL = replace(
    WHOLE, uid=np.repeat(WHOLE.uid[:9], 10, axis=0)[np.random.default_rng(2).permutation(90)], content=WHOLE.uid
)
CASES: dict[str, tuple[Candidates, SelectionSpec]] = {
    "joint": (WHOLE, SPEC),
    "top_k, weights, gain": (WHOLE, replace(SPEC, sampling="top_k", weights=(1.0, 0.4), gain=0.2)),
    "no learner": (replace(WHOLE, learner=None), replace(SPEC, criterion="easy_reference")),
    "independent": (WHOLE, replace(SPEC, method="independent")),
    "uniform": (WHOLE, replace(SPEC, method="uniform")),
    "greedy": (WHOLE, replace(SPEC, method="greedy", b=7)),
    "softmax": (WHOLE, replace(SPEC, loss="softmax")),
    "softmax, small probe": (WHOLE, replace(SPEC, loss="softmax", probe_size=3, criterion="hard_learner")),
    "softmax, no probe": (WHOLE, replace(SPEC, loss="softmax", first_round="diagonal")),
    "softmax, independent": (WHOLE, replace(SPEC, loss="softmax", method="independent")),
    "hard negatives": (WHOLE, replace(SPEC, method="hard_negatives", max_cosine=0.9)),
    "excluded rows": (random_fields(WHOLE), replace(SPEC, repetition_cap=2)),
    "excluded rows, softmax": (random_fields(WHOLE), replace(SPEC, repetition_cap=2, loss="softmax")),
    "copies": (with_copies(WHOLE), SPEC),
    "copies, uniform": (with_copies(WHOLE), replace(SPEC, method="uniform")),
    "near-copies": (with_near_copies(WHOLE), replace(SPEC, max_cosine=0.8)),
    "near-copies, no learner": (
        replace(with_near_copies(WHOLE), learner=None),
        replace(SPEC, criterion="easy_reference", max_cosine=0.8),
    ),
    "near-copies and copies": (with_copies(with_near_copies(WHOLE)), replace(SPEC, b=12, max_cosine=0.8)),
    "equal scores, equal uids": (EQUAL, replace(SPEC, gain=0.0, sampling="top_k")),
    "everything": (WHOLE, replace(SPEC, b=90)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sizes", [[55, 35], [1, 40, 0, 49]], ids=["2 parts", "4 parts"])
def test_the_choice_is_that_of_one_process(world: World, name: str, sizes: list[int]) -> None:
    whole, spec = CASES[name]
    assert_same(ask(world, cut(whole, sizes), spec), whole, spec)


@pytest.mark.parametrize("name", ["joint", "softmax", "uniform", "near-copies and copies"])
def test_one_process_may_hold_all(world: World, name: str) -> None:
    whole, spec = CASES[name]
    assert_same(ask(world, cut(whole, [0, 0, 90, 0]), spec), whole, spec)


@pytest.mark.parametrize("name", [name for name in CASES if "copies" in name])
def test_a_case_of_copies_would_be_another_without_the_rules(name: str) -> None:
    whole, spec = CASES[name]
    chosen = select(whole, spec).chosen_index
    if whole.content is not None:
        assert set(chosen) != set(select(replace(whole, content=None), spec).chosen_index)
    if spec.max_cosine is not None:
        assert set(chosen) != set(select(whole, replace(spec, max_cosine=None)).chosen_index)


@pytest.mark.parametrize("precision", ["native", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_parts_of_whole_blocks_give_the_same_bits(world: World, precision: str, dtype: torch.dtype, loss: str) -> None:
    sizes = [CANDIDATE_BLOCK, 0, 2 * CANDIDATE_BLOCK, 333]
    whole = made.candidates(sum(sizes), width=24, seed=5, dtype=dtype)
    spec = replace(SPEC, b=300, precision=precision, loss=loss)  # type: ignore[arg-type]
    assert_same(ask(world, cut(whole, sizes), spec), whole, spec, in_every_bit=True)


def test_one_process_is_a_group_too(world: World) -> None:
    assert_same(ask(world, [WHOLE], SPEC), WHOLE, SPEC, in_every_bit=True)


def test_mapped_parts_of_one_file(world: World, tmp_path: Path) -> None:
    whole = made.candidates(500, dtype=torch.float32)
    for name in ("learner", "reference"):
        for tower in ("image", "text"):
            write_tower(tmp_path / f"{name}.{tower}.npy", [getattr(getattr(whole, name), tower)], dtype=torch.float32)
    rows = [(0, 130), (130, 130), (130, 499), (499, 500)]
    arguments = [(part, SPEC, tmp_path, own) for part, own in zip(cut(whole, [130, 0, 369, 1]), rows, strict=True)]
    assert_same(world.ask(work_on_files, arguments), whole, SPEC)


def work_on_files(
    group: dist.ProcessGroup | None, part: Candidates, spec: SelectionSpec, folder: Path, rows: tuple[int, int]
) -> ShardedSelection:
    models = {
        name: map_embeddings(
            folder / f"{name}.image.npy",
            folder / f"{name}.text.npy",
            logit_scale=model.logit_scale,
            logit_bias=model.logit_bias,
            rows=rows,
        )
        for name, model in (("learner", part.learner), ("reference", part.reference))
        if model is not None
    }
    return select_sharded(replace(part, **models), spec, group=group)


# What goes over the wire.


def count_bytes(group: dist.ProcessGroup | None, part: Candidates, spec: SelectionSpec) -> dict[str, list[int]]:
    """The bytes that this process gives to each collective, in turn."""
    given: dict[str, list[int]] = {"all_gather": [], "all_reduce": []}
    whole = {name: getattr(dist, name) for name in given}

    def count(name: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            tensor = arguments[1] if name == "all_gather" else arguments[0]
            given[name].append(tensor.numel() * tensor.element_size())
            return whole[name](*arguments, **options)

        return counted

    for name in given:
        setattr(dist, name, count(name))
    try:
        select_sharded(part, spec, group=group)
    finally:
        for name in given:
            setattr(dist, name, whole[name])
    return given


@pytest.mark.parametrize(("B", "dtype"), [(400, torch.float32), (800, torch.float32), (800, torch.float16)])
def test_a_round_exchanges_the_new_chosen_and_nothing_of_length_b(world: World, B: int, dtype: torch.dtype) -> None:
    D, N, n = 16, 5, 8
    spec = replace(SPEC, b=N * n, num_chunks=N)
    parts = cut(made.candidates(B, width=D, dtype=dtype), [B // 2, B // 2])
    for given in world.ask(count_bytes, [(part, spec) for part in parts], group_of=2):
        positions = 8 * spec.b
        assert given["all_reduce"] == 4 * (N - 1) * [n * D * dtype.itemsize] + [positions]
        own = 8 * B // 2
        # Before the first round, the dataset_index and the content; then each round's proposals. Headers have 24 bytes.
        grows = [num_bytes for num_bytes in given["all_gather"] if num_bytes != 24]
        assert grows[1:] == [own, 2 * own, *(N * [32 * n])]
        assert grows[0] < 2000  # the spec, as text


def answer_by_rank(group: dist.ProcessGroup | None, part: Candidates) -> list[bool]:
    with Meeting(group) as meeting:
        own = torch.tensor([meeting.rank == 0, meeting.rank != 0])
        answer: list[bool] = ProcessGroupPeers(part, meeting).agreed(own).tolist()
        return answer


def test_where_rounding_might_part_them_all_follow_one(world: World) -> None:
    assert world.ask(answer_by_rank, [(WHOLE,)] * 4) == [[True, False]] * 4


# Refusals.


def spoiled(part: Candidates, row: int) -> Candidates:
    assert part.learner is not None
    image = part.learner.image.clone()
    image[row, 2] = np.nan
    return replace(part, learner=replace(part.learner, image=image))


def with_learner(part: Candidates, **fields: Any) -> Candidates:
    assert part.learner is not None
    return replace(part, learner=replace(part.learner, **fields))


PARTS = cut(WHOLE, [30, 20, 25, 15])
OTHER_WIDTH = made.candidates(25, width=6)
REFUSALS: dict[str, tuple[Candidates, SelectionSpec, type[Exception], str]] = {
    "a value that is not finite": (
        spoiled(PARTS[2], 7),
        SPEC,
        InvalidEmbeddings,
        r"got nan \(learner, image tower, row 7, .*\(process 2 of 4\)",
    ),
    "a missing model": (
        replace(PARTS[2], learner=None),
        SPEC,
        InvalidSelection,
        r"needs embeddings of the learner; got None.*process 2 of 4",
    ),
    "a field of another length": (
        replace(PARTS[2], prior=np.zeros(3)),
        SPEC,
        InvalidSelection,
        r"prior must be .*process 2 of 4",
    ),
    "an index of another type": (
        replace(PARTS[2], dataset_index=PARTS[2].dataset_index.astype(np.int32)),
        SPEC,
        InvalidSelection,
        r"same candidates.dataset_index; got int64 .*process 0 of 4\) and int32 .*process 2",
    ),
    "another b": (
        PARTS[2],
        replace(SPEC, b=24),
        InvalidSelection,
        r"same selection.b; got 23 \(process 0 of 4\) and 24 \(process 2\)",
    ),
    "another seed": (PARTS[2], replace(SPEC, seed=4), InvalidSelection, r"same selection.seed; .*process 2"),
    "another method": (
        PARTS[2],
        replace(SPEC, method="uniform"),
        InvalidSelection,
        "same selection.method; .*process 2",
    ),
    "another width": (
        replace(PARTS[2], learner=OTHER_WIDTH.learner),
        SPEC,
        InvalidEmbeddings,
        r"same learner.D; got \[8\] .*\[6\] \(process 2\)",
    ),
    "another type": (
        with_learner(PARTS[2], image=torch.ones(25, 8), text=torch.ones(25, 8)),
        SPEC,
        InvalidEmbeddings,
        r"same learner.type; got torch.float64 on cpu .*torch.float32 on cpu \(process 2\)",
    ),
    "another scale": (
        with_learner(PARTS[2], logit_scale=31.0),
        SPEC,
        InvalidEmbeddings,
        r"same learner.logit_scale; got 30.0 .*31.0 \(process 2\)",
    ),
    "another bias": (
        with_learner(PARTS[2], logit_bias=0.0),
        SPEC,
        InvalidEmbeddings,
        "same learner.logit_bias; .*process 2",
    ),
    "content in one part": (
        replace(PARTS[2], content=PARTS[2].uid),
        SPEC,
        InvalidSelection,
        r"same candidates.content; got none .*given \(process 2\)",
    ),
    "a row of another part": (
        replace(PARTS[2], dataset_index=np.array([*PARTS[2].dataset_index[:-1], PARTS[0].dataset_index[4]])),
        SPEC,
        InvalidSelection,
        rf"dataset_index {PARTS[0].dataset_index[4]} twice \(row 4 of process 0, row 24 of process 2\)",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_in_one_process_is_raised_in_all(world: World, name: str) -> None:
    part, spec, kind, message = REFUSALS[name]
    arguments = [(PARTS[0], SPEC), (PARTS[1], SPEC), (part, spec), (PARTS[3], SPEC)]
    for answer in world.ask(work, arguments):
        with pytest.raises(kind, match=message):
            raise answer


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (replace(SPEC, method="gibbs"), InvalidSelection, "gibbs needs all candidates in one process; got 4 processes"),
        (replace(SPEC, method="greedy", loss="softmax"), InvalidSelection, "greedy needs all candidates in one"),
        (replace(SPEC, loss="softmax", softmax_score="marginal"), InvalidSelection, "marginal needs all candidates in"),
        (replace(SPEC, b=91), TooFewCandidates, "got 90 of 90"),
    ],
)
def test_what_all_refuse_is_said_as_by_one(world: World, spec: SelectionSpec, kind: type, message: str) -> None:
    for answer in ask(world, PARTS, spec):
        with pytest.raises(kind, match=message) as caught:
            raise answer
        assert "(process" not in str(caught.value)


def test_too_few_are_counted_over_all_processes(world: World) -> None:
    parts = cut(with_near_copies(random_fields(WHOLE)), [30, 20, 25, 15])
    spec = replace(SPEC, b=60, max_cosine=0.5, repetition_cap=2)
    with pytest.raises(TooFewCandidates) as alone:
        select(with_near_copies(random_fields(WHOLE)), spec)
    answers = ask(world, parts, spec)
    assert [(type(answer), answer.counts) for answer in answers] == 4 * [(TooFewCandidates, alone.value.counts)]


def test_without_a_process_group_there_is_one_sentence() -> None:
    with pytest.raises(InvalidSelection, match="needs a process group; got none"):
        select_sharded(WHOLE, SPEC)


# Failures in the middle of the rounds.


def fail_in_round(
    group: dist.ProcessGroup | None, part: Candidates, spec: SelectionSpec, how: str | None
) -> ShardedSelection:
    def noise(round_index: int) -> torch.Tensor:
        if round_index == 3 and how == "raise":
            raise ZeroDivisionError("of all things")
        if round_index == 3 and how == "die":
            os._exit(1)
        return torch.zeros(len(part), dtype=torch.float64)

    return select_sharded(part, spec, group=group, noise=noise)


def test_an_error_in_one_process_ends_all_and_the_group_works_on(world: World) -> None:
    hows = (None, "raise", None, None)
    answers = world.ask(fail_in_round, [(part, SPEC, how) for part, how in zip(PARTS, hows, strict=True)])
    assert isinstance(answers[1], ZeroDivisionError)
    for answer in (answers[0], *answers[2:]):
        with pytest.raises(PeerFailed, match=r"got ZeroDivisionError: of all things \(process 1 of 4\)"):
            raise answer
    assert_same(ask(world, PARTS, SPEC), WHOLE, SPEC)


def fail_alone(group: dist.ProcessGroup | None, is_failing: bool) -> None:
    with Meeting(group):
        if is_failing:
            raise ZeroDivisionError("at the very end")


def test_nobody_leaves_before_all_are_done(world: World) -> None:
    answers = world.ask(fail_alone, [(False,), (False,), (True,), (False,)])
    assert [type(answer) for answer in answers] == [PeerFailed, PeerFailed, ZeroDivisionError, PeerFailed]


def be_elsewhere(group: dist.ProcessGroup | None, n: int) -> int:
    with Meeting(group) as meeting:
        return sum(meeting.sizes("draw", must_agree=n))


def test_processes_that_are_at_different_steps_are_found_out(world: World) -> None:
    for answer in world.ask(be_elsewhere, [(7,), (7,), (8,), (7,)]):
        with pytest.raises(PeerFailed, match=r"must be at the same step; got \[\('draw', 7\), \('draw', 8\)\]"):
            raise answer


def test_a_process_that_dies_is_noticed_at_once() -> None:
    with World(2, timeout_s=600) as pair:
        parts = cut(WHOLE, [50, 40])
        answers = pair.ask(fail_in_round, [(parts[0], SPEC, None), (parts[1], SPEC, "die")])
    assert isinstance(answers[1], Silence)
    with pytest.raises(PeerFailed, match=r"every process must stay until all are done; got .*process 0 of 2"):
        raise answers[0]


def wait_for_a_silent_process(
    group: dist.ProcessGroup | None, part: Candidates, spec: SelectionSpec, is_over: Path
) -> ShardedSelection | None:
    impatient = dist.new_group([0, 1], timeout=timedelta(seconds=4))
    if dist.get_rank() == 1:
        while not is_over.exists():
            time.sleep(0.05)
        return None
    try:
        return select_sharded(part, spec, group=impatient)
    finally:
        is_over.touch()


def test_a_silent_process_is_given_up_when_the_time_out_of_the_group_is_over(tmp_path: Path) -> None:
    with World(2, timeout_s=600) as pair:
        parts = cut(WHOLE, [50, 40])
        answers = pair.ask(wait_for_a_silent_process, [(part, SPEC, tmp_path / "is_over") for part in parts])
    with pytest.raises(PeerFailed, match=r"every process must stay until all are done; got .*imed out"):
        raise answers[0]


@pytest.mark.parametrize(
    ("backends", "device", "expected"),
    [
        ("cpu:gloo,cuda:gloo", "cpu", "cpu"),
        ("cpu:gloo,cuda:gloo", "cuda:1", "cuda:1"),
        ("cpu:gloo,cuda:nccl", "cuda:0", "cuda:0"),
        ("cpu:gloo", "cuda:0", "cpu"),
        ("cuda:nccl", "cuda:2", "cuda:2"),
    ],
)
def test_tensors_are_exchanged_where_the_group_can(backends: str, device: str, expected: str) -> None:
    assert wire_device(backends, torch.device(device)) == torch.device(expected)
