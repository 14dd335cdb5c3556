"""The demo's last page: what each arm cost and what it reached, as plain tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from superbatch_server.service.demo.api import JsonObject

FORWARD_AND_BACKWARD = 3
"""A training step costs three forward passes: one forward, two backward."""


@dataclass(frozen=True)
class Arm:
    """One trained model: its budgets in examples and FLOPs, and its quality on the held-out split."""

    name: str
    loaded_examples: int
    trained_examples: int
    training_flops: float
    curation_flops: float
    reference_flops: float
    retrieval_r5_fraction: float
    zero_shot_fraction: float
    seconds: float

    @property
    def flops(self) -> float:
        """FLOPs without the training of the reference."""
        return self.training_flops + self.curation_flops

    @property
    def flops_with_reference(self) -> float:
        """FLOPs with the training of the reference, for the arm that needs one."""
        return self.flops + self.reference_flops


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under their heads: the first column to the left, numbers to the right."""
    cells = [list(head), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *rest = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        return "  ".join([first.strip().ljust(widths[0]), *rest]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(cells[0]), rule, *[line(row) for row in cells[1:]]])


def budgets(arms: Sequence[Arm]) -> str:
    """Return the main table: the three budgets and the quality of each arm."""
    head = ("", "loaded", "trained", "TFLOPs", "with reference", "R@5", "zero-shot", "seconds")
    return table(
        head,
        [
            (
                arm.name,
                f"{arm.loaded_examples:,}",
                f"{arm.trained_examples:,}",
                f"{arm.flops / 1e12:.3f}",
                f"{arm.flops_with_reference / 1e12:.3f}",
                f"{arm.retrieval_r5_fraction:.3f}",
                f"{arm.zero_shot_fraction:.3f}",
                f"{arm.seconds:.0f}",
            )
            for arm in arms
        ],
    )


def sources(stats: JsonObject) -> str:
    """Return the table of filter ratio and lift per source."""
    head = ("source", "rows", "quarantined", "candidates", "selected", "filter ratio", "lift")
    found = cast("Mapping[str, Mapping[str, float | None]]", stats["sources"])
    rows = [
        (
            name,
            _count(source["rows"]),
            _count(source["quarantined"]),
            _count(source["candidates"]),
            _count(source["selected"]),
            _ratio(source["filter_ratio"]),
            _ratio(source["lift"]),
        )
        for name, source in found.items()
    ]
    return table(head, rows)


def quarantine(stats: JsonObject) -> str:
    """Return one sentence on the quarantined rows and their reasons."""
    reasons = cast("Mapping[str, int]", stats["quarantined"])
    listed = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(reasons.items()))
    return f"{sum(reasons.values())} rows quarantined: {listed}." if reasons else "No row was quarantined."


def generations(stats: JsonObject) -> str:
    """Return the table of what scored which batches, and how old it was."""
    head = ("generation", "scored by", "batches", "staleness")
    grouped: dict[tuple[int, str], list[tuple[int, list[int]]]] = {}
    for segment in cast("Sequence[Mapping[str, object]]", stats["segments"]):
        key = (cast("int", segment["generation"]), str(segment["rule"]).replace("_", " "))
        staleness = cast("list[int]", segment["staleness"] or [])
        grouped.setdefault(key, []).append((cast("int", segment["num_batches"]), staleness))
    rows = []
    for (generation, rule), parts in sorted(grouped.items()):
        ages = [age for _, listed in parts for age in listed]
        shown = f"{min(ages)} to {max(ages)} batches" if ages else "-"
        rows.append((str(generation), rule, str(sum(count for count, _ in parts)), shown))
    return table(head, rows)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{int(value):,}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
