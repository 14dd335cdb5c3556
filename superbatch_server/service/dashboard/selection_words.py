"""How a job selects, in a few words."""

from __future__ import annotations

from dataclasses import dataclass

from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.selection import Criterion, Method, SelectionSpec


@dataclass(frozen=True, slots=True)
class Selection:
    """For example: joint learnability, softmax loss; f 0.8, b 128; at most 3 times, cosine below 0.95."""

    how: str
    sizes: str
    limits: str


def selection_of(spec: CurateSpec) -> Selection:
    """Return what a job selects by; "scheduled" stands for whatever changes over seq."""
    selection = spec.selection
    words = [_words(selection.method) if isinstance(selection.method, Method) else "scheduled method"]
    if selection.criteria():
        criterion = selection.criterion
        words.append(_words(criterion) if isinstance(criterion, Criterion) else "scheduled criterion")
    how = f"{' '.join(words)}, {selection.loss} loss" if selection.criteria() else words[0]
    f = f"{selection.f:g}" if isinstance(selection.f, float) else "scheduled"
    return Selection(how=how, sizes=f"f {f}, b {selection.b:,}", limits=", ".join(_limits(selection)))


def _limits(selection: SelectionSpec) -> list[str]:
    said = []
    if selection.repetition_cap is not None:
        said.append(f"at most {selection.repetition_cap:,} times" if selection.repetition_cap > 1 else "at most once")
    if selection.max_cosine is not None:
        said.append(f"cosine below {selection.max_cosine:g}")
    if selection.precision != "native":
        said.append(selection.precision)
    if len(selection.variants) > 1:
        said.append(f"{len(selection.variants)} variants, {selection.trained_flops_fraction():.3g} of the FLOPs")
    return said


def _words(name: Method | Criterion) -> str:
    return name.value.replace("_", " ")
