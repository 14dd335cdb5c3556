"""Which candidates hold the same content, and how exclusions are counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from superbatch.selection import SelectionSpec
from superbatch.selection.exclusions import _MIX, count_by_rule, find_copies, num_superfluous
from superbatch.selection.methods.peers import OneProcess
from tests.superbatch.selection import made, plain

SPEC = SelectionSpec("uniform", "learnability", 1, 1, repetition_cap=2)


class SecondOfTwo(OneProcess):
    """The second of two processes; what the first one holds comes before its own."""

    def __init__(self, *first: np.ndarray) -> None:
        self.first = [torch.from_numpy(values) for values in first]

    def gather_all(self, values: torch.Tensor) -> tuple[torch.Tensor, int]:
        theirs = self.first.pop(0)
        return torch.cat([theirs, values]), len(theirs)


contents = st.lists(st.binary(min_size=16, max_size=16) | st.sampled_from([b"\0" * 16, b"\0" * 15 + b"\1", b"x" * 16]))


def rows_of(those: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(those), np.uint8).reshape(len(those), 16)


@given(here=contents, there=contents)
def test_copies_are_those_with_equal_bytes_in_any_process(here: list[bytes], there: list[bytes]) -> None:
    candidates = replace(made.candidates(len(here)), content=rows_of(here))
    theirs = rows_of(there).copy().view("<i8")
    peers = SecondOfTwo(theirs, theirs, np.arange(len(there)), np.zeros(len(there)))
    copies = find_copies(candidates, SPEC, peers=peers)
    holders = Counter(there + here)
    assert (copies is None) == (len(holders) == len(here) + len(there))
    if copies is None:
        return
    assert (copies.number >= 0).tolist() == [holders[one] > 1 for one in here]
    assert copies.num_contents == sum(count > 1 for count in holders.values())
    assert set(copies.number.tolist()) <= set(range(-1, copies.num_contents))
    numbers = {one: number for one, number in zip(here, copies.number.tolist(), strict=True) if number >= 0}
    assert [numbers.get(one, -1) for one in here] == copies.number.tolist()
    assert len(set(numbers.values())) == len(numbers)


def test_the_uid_is_the_content_where_none_is_given() -> None:
    candidates = made.candidates(9)
    assert find_copies(candidates, SPEC, peers=OneProcess()) is None
    uid = candidates.uid.copy()
    uid[[7, 2]] = uid[4]
    copies = find_copies(replace(candidates, uid=uid), SPEC, peers=OneProcess())
    assert copies is not None
    assert copies.number.tolist() == [-1, -1, 0, -1, 0, -1, -1, 0, -1]
    assert find_copies(replace(candidates, uid=uid, content=candidates.uid), SPEC, peers=OneProcess()) is None


def test_contents_that_only_mix_to_the_same_number_are_told_apart() -> None:
    words = np.array([[5, 9]] * 3, np.uint64)
    words[1] += np.stack([_MIX[1], ~_MIX[0] + np.uint64(1)])  # lo + m1 and hi - m0 leave lo * m0 + hi * m1 as it was
    mixed = words[:, 0] * _MIX[0] + words[:, 1] * _MIX[1]
    assert len(set(mixed.tolist())) == 1
    content = np.concatenate([words.view(np.uint8), made.candidates(5).uid])
    copies = find_copies(replace(made.candidates(8), content=content), SPEC, peers=OneProcess())
    assert copies is not None
    assert copies.number.tolist() == [0, -1, 0, -1, -1, -1, -1, -1]
    assert find_copies(replace(made.candidates(7), content=content[1:]), SPEC, peers=OneProcess()) is None


@given(rows=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 4)), max_size=20))
def test_counts_by_rule_and_those_left_add_up(rows: list[tuple[bool, bool, bool, int]]) -> None:
    B = len(rows)
    masks = {name: np.array([row[k] for row in rows], bool) for k, name in enumerate("abc")}
    counts, left = count_by_rule(masks, B, peers=OneProcess())
    assert left.tolist() == [not any(row[:3]) for row in rows]
    assert sum(counts.values()) + left.sum() == B
    assert counts["b"] == sum(row[1] and not row[0] for row in rows)
    content = np.zeros((B, 16), np.uint8)
    content[:, 3] = [row[3] for row in rows]
    copies = find_copies(replace(made.candidates(B), content=content), SPEC, peers=OneProcess())
    distinct = {row[3] for row in rows if not any(row[:3])}
    lost = 0 if copies is None else num_superfluous(copies, left, peers=OneProcess())
    assert lost == left.sum() - len(distinct)


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 1), st.sampled_from([-np.inf, 0.0, 1.0]), st.integers(0, 2)),
        min_size=1,
        max_size=12,
    ),
    seed=st.integers(0, 1000),
)
def test_who_is_behind_equals_the_slow_search(rows: list[tuple[int, int, float, int]], seed: int) -> None:
    uid = np.zeros((len(rows), 16), np.uint8)
    content = uid.copy()
    uid[:, 9], content[:, 2] = [row[0] for row in rows], [row[1] for row in rows]
    candidates = replace(
        made.candidates(len(rows), seed=seed),
        uid=uid,
        content=content,
        prior=np.array([row[2] for row in rows]),
        times_chosen=np.array([row[3] for row in rows]),
    )
    copies = find_copies(candidates, SPEC, peers=OneProcess())
    expected = [plain.is_behind(candidates, SPEC, i) for i in range(len(rows))]
    assert ([False] * len(rows) if copies is None else copies.is_behind.tolist()) == expected


def test_of_rows_of_one_uid_and_content_one_goes_before_the_others() -> None:
    candidates = made.candidates(8)
    uid = candidates.uid[[0, 0, 0, 3, 3, 5, 5, 7]]
    content = candidates.uid[[0, 0, 1, 3, 3, 5, 5, 0]]
    candidates = replace(
        candidates,
        uid=uid,
        content=content,
        dataset_index=np.array([9, 8, 7, 4, 5, 1, 2, 0]),
        prior=np.array([0.0, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0]),
        times_chosen=np.array([0, 0, 0, 0, 0, 2, 1, 0]),
    )
    copies = find_copies(candidates, SPEC, peers=OneProcess())
    assert copies is not None
    # 1 before 0 by its index; 2 is another content and 7 another uid; 4 before 3 by its prior; 5 has reached the cap.
    assert copies.is_behind.nonzero()[0].tolist() == [0, 3, 5]
    theirs = replace(made.permuted(candidates, np.array([6])), prior=np.array([1.0]))
    peers = SecondOfTwo(theirs.content.view("<i8"), theirs.uid.view("<i8"), np.array([3]), np.array([1.0]))
    beside = find_copies(made.permuted(candidates, np.array([0, 6])), SPEC, peers=peers)
    assert beside is not None
    assert beside.is_behind.tolist() == [False, True]
