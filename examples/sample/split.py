"""Who lands in which split, and who gets a wrong caption: pure functions of their input and a generator."""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

Group = tuple[str, str]
"""(set, concept): all style variants of one icon, which one split holds alone."""


def shuffled(items: Iterable[T], generator: np.random.Generator) -> list[T]:
    """Return the items in random order."""
    listed = list(items)
    return [listed[index] for index in generator.permutation(len(listed))]


@dataclass(frozen=True)
class Allocation:
    """The groups of one source by split; `pool` is all that the other two left."""

    clean: list[Group]
    test: list[Group]
    pool: list[Group]


def by_concept(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Return the groups listed under their concept, in the order given."""
    listed: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        listed[group[1]].append(group)
    return dict(listed)


def in_turns(queues: Mapping[K, Sequence[T]]) -> list[T]:
    """Return the first item of each queue, then the second of each, and so on: a a b b b -> a b a b b."""
    longest = max((len(queue) for queue in queues.values()), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]


def allocate(
    groups: Iterable[Group],
    classes: Collection[str],
    *,
    class_pictures: int,
    clean_rows: int,
    test_rows: int,
    concepts_in_test: Collection[str],
    generator: np.random.Generator,
) -> Allocation:
    """Return the groups of one source by split.

    Test: `class_pictures` groups of each class, then one group of each concept that the test split of no other source
    holds (so captions stay distinct), then, if that is too little, any. Clean: in turns over the concepts of the rest,
    so that it knows as many concepts as it can.
    Raises: ValueError when the groups are too few.
    """
    queues = by_concept(shuffled(groups, generator))
    in_classes = [group for concept in sorted(classes) for group in queues[concept][:class_pictures]]
    others = in_turns({concept: queue for concept, queue in queues.items() if concept not in classes})
    others.sort(key=lambda group: group[1] in concepts_in_test)
    test = (in_classes + others)[:test_rows]
    rest = in_turns(by_concept(group for group in shuffled(groups, generator) if group not in set(test)))
    if len(rest) < clean_rows or len(test) < test_rows:
        raise ValueError(
            f"a source needs {clean_rows} clean and {test_rows} test groups; got {len(rest)} and {len(test)}. "
            "Raise num_concepts in recipe.py, or ask for fewer rows."
        )
    return Allocation(clean=rest[:clean_rows], test=test, pool=rest[clean_rows:])


def derangement(labels: Sequence[str], generator: np.random.Generator) -> list[int]:
    """Return a random permutation p with labels[p[i]] != labels[i] for every i.

    A uniform permutation first; then each position that kept its label swaps with the first position, in random
    order, that may take it without keeping its own.
    Raises: ValueError when one label is on more than half of the positions, where no such permutation exists.
    """
    count = len(labels)
    p = [int(index) for index in generator.permutation(count)]
    for i in range(count):
        if labels[p[i]] != labels[i]:
            continue
        partners = (int(j) for j in generator.permutation(count))
        j = next((j for j in partners if labels[p[j]] != labels[i] and labels[p[i]] != labels[j]), None)
        if j is None:
            most = max(map(labels.count, labels))
            raise ValueError(
                f"no label may be on more than half of the positions; got {most} equal labels of {count}. "
                "Shuffle more captions at once, or more varied ones."
            )
        p[i], p[j] = p[j], p[i]
    return p
