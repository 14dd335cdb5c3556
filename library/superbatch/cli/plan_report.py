"""A plan as text for a terminal, with all that it assumes. Prefixes are decimal: 1 GB = 1e9 bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from math import floor, log10

from superbatch.cli.text import shown, table
from superbatch.selection.cost.plan import Plan, PolicyPlan
from superbatch.selection.cost.rates import Spend
from superbatch.selection.cost.storage import (
    INDEX_BYTES_PER_ROW,
    LIST_BYTES_PER_ROW,
    SCORE_BYTES_PER_CANDIDATE,
    STORED_BYTES_PER_NUMBER,
)

_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
_SIGNIFICANT_DIGITS = 4
_COLUMNS = 118


@dataclass(frozen=True)
class Assumed:
    """What the text says of where its figures come from."""

    currency: str
    price_is_given: bool


def plan_text(plan: Plan, assumed: Assumed) -> str:
    """Return the plan as tables, with all that is assumed below them."""
    notes = "\n".join(
        textwrap.fill(line, _COLUMNS, initial_indent="  - ", subsequent_indent="    ")
        for line in assumptions(plan, assumed)
    )
    parts = ["\n".join(_head(plan, assumed)), _costs(plan, assumed), _COST_LEGEND, _bytes(plan), _BYTES_LEGEND]
    return "\n\n".join([*parts, "assumed\n" + notes])


def assumptions(plan: Plan, assumed: Assumed) -> Iterator[str]:
    """Yield in sentences what the figures rest on."""
    work, rates = plan.work, plan.rates
    origin = "as given" if assumed.price_is_given else "a round figure: give yours with --price"
    yield (
        f"{rates.num_devices} x {shown(rates.device)}: {scaled(rates.peak_flops_per_s)}FLOP/s ({shown(rates.dtype)}, "
        f"dense), of which {rates.utilisation:g} is reached in training, scoring and selection alike (--utilisation)."
    )
    yield (
        f"{rates.watts:g} W a device, times {rates.pue:g} for the site (--pue); {rates.price_per_hour:g} "
        f"{assumed.currency} a device-hour ({origin}) and {rates.price_per_kwh:g} a kWh (--price-kwh)."
    )
    yield "A backward pass costs two forward passes. f is one number for the whole run: for a schedule, plan its ends."
    low = work.learner.low_resolution_cost
    computed = "" if low is None else f"; by the FLOPs of this model at twice the patch it would be {low:.3f}"
    yield (
        f"flexi-jest: a low-resolution pass costs {work.low_resolution.cost:g} of a full one{computed} "
        f"(--flexi-cost model); {work.low_resolution.share:g} of the batch is trained so."
    )
    yield (
        f"Stored: {STORED_BYTES_PER_NUMBER} bytes for each number of an embedding, {INDEX_BYTES_PER_ROW} of index for "
        f"each row, {LIST_BYTES_PER_ROW} for each row of a batch list, {SCORE_BYTES_PER_CANDIDATE} of score shard for "
        f"each candidate. An example takes {scaled(work.example_bytes)}B (--example-kb); blocks of {work.block_rows} "
        "rows are drawn together."
    )
    if not work.reference_examples:
        yield "The reference is there already; --reference-examples adds its training."
    yield "How much faster curated batches teach is not predicted: measure it in a short trial. See docs/planning.md."


def scaled(value: float) -> str:
    """Return a quantity before the prefix of its unit: '57.84 G', '989 T'."""
    power = _power(value)
    text = digits(value / 1000**power)
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {_PREFIXES[power]}"


def digits(value: float) -> str:
    """Return a number in at least 4 significant digits: '0.1235', '12.35', '1,235', '123,457'."""
    if value == 0:
        return "0"
    decimals = max(0, _SIGNIFICANT_DIGITS - 1 - floor(log10(abs(value))))
    return f"{value:,.{decimals}f}"


def _power(value: float) -> int:
    """Return the power of 1000 that leaves 1 to 1000."""
    return min(max(0, floor(log10(value) / 3)), len(_PREFIXES) - 1) if value >= 1 else 0


def _head(plan: Plan, assumed: Assumed) -> Iterator[str]:
    work = plan.work
    learner, reference = work.learner, work.reference
    same = "the reference is of the same size"
    other = f"reference: {shown(reference.name)}, {scaled(reference.forward_flops)}FLOP, D = {reference.width}"
    yield (
        f"model  {shown(learner.name)}: {scaled(learner.forward_flops)}FLOP for the forward pass of a pair, "
        f"D = {learner.width}; {same if learner == reference else other}"
    )
    yield (
        f"run    {work.num_batches:,} batches of b = {work.b:,} from B = {work.B:,} (f = {work.f:g}, R = {work.R:g}), "
        f"N = {work.N}, {work.loss} loss"
    )
    yield (
        f"data   {work.rows:,} rows: {digits(plan.trained_passes)} passes trained on, "
        f"{digits(plan.candidate_passes)} as candidates"
    )
    once = next(found for found in plan.policies if found.policy.reference == "cached")
    yield f"once   the reference over the pool: {_spent(once.pool_pass, assumed)}"
    if work.reference_examples:
        yield f"       training the reference: {_spent(once.reference_training, assumed)}"
    if plan.checkpoint_pushes:
        size = "of unknown size" if plan.checkpoint_bytes is None else f"{scaled(plan.checkpoint_bytes)}B in all"
        yield f"push   {plan.checkpoint_pushes:,} checkpoints, {size}"


def _spent(spend: Spend, assumed: Assumed) -> str:
    return (
        f"{scaled(spend.flops)}FLOP, {digits(spend.wall_hours)} h, {digits(spend.kwh)} kWh, "
        f"{digits(spend.money)} {assumed.currency}"
    )


def _costs(plan: Plan, assumed: Assumed) -> str:
    power = _power(plan.policies[0].total.flops)
    unit = f"{_PREFIXES[power]}FLOP"
    headings = ("policy", "step", "selection", unit, "hours", "kWh", assumed.currency, "of uniform", "break-even")
    return table(
        headings,
        [
            (
                found.policy.name,
                f"{found.step.total:.3f}",
                f"{found.selection_step:.4f}",
                digits(found.total.flops / 1000**power),
                digits(found.total.wall_hours),
                digits(found.total.kwh),
                digits(found.total.money),
                f"{found.of_uniform:.3f}",
                "-" if found.break_even_speed_up is None else f"{found.break_even_speed_up:.3f}",
            )
            for found in plan.policies
        ],
    )


_COST_LEGEND = """\
step, selection: FLOPs of one step, of the models and of the selection's own products, in steps of uniform. Then the
whole run with what is needed once; hours by the clock on all devices. break-even: how many times fewer examples
than uniform the policy must need to cost the same; - where no number would do in a run this short."""


def _bytes(plan: Plan) -> str:
    headings = (
        "policy",
        "scored",
        "GB read",
        "requests",
        "GB moved",
        "GB held",
        "scorers",
        "GB stored",
        "GB reused",
    )
    return table(headings, [_bytes_row(found) for found in plan.policies])


def _bytes_row(found: PolicyPlan) -> tuple[str, ...]:
    reads, storage = found.reads, found.storage
    return (
        found.policy.name,
        f"{reads.scoring_rows:,}",
        _gigabytes(reads.scoring_bytes + reads.training_bytes),
        f"{reads.scoring_requests + reads.training_requests:,}",
        _gigabytes(reads.embedding_bytes),
        _gigabytes(found.selection_memory_bytes),
        f"{found.scoring_of_training:.2f}",
        _gigabytes(storage.total_bytes),
        _gigabytes(storage.reference_embeddings_bytes + storage.index_bytes),
    )


_BYTES_LEGEND = """\
A step: rows scored by a model; data read, in how many requests; embeddings moved to the composer, and held in its
memory; devices that score for each one that trains. At the end of the run: stored, and of that reused by every
later job on the pool (index, embeddings of the reference)."""


def _gigabytes(count: float) -> str:
    return digits(count / 1e9)
