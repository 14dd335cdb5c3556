"""What the curves say: shares of a unit with their spread, one sentence per curve, and which N to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from superbatch_server.preview.brute_force import BruteForce
from superbatch_server.preview.curves import Curves
from superbatch_server.preview.plan import INDEPENDENT, UNIT_RATIO, Cell, Plan

ENOUGH = 0.95
"""The recommended N is the smallest that reaches this part of the best share measured."""

SMALLEST_GAIN = 0.01
"""A unit below this share of what selection gains over a uniform batch is too small to divide by."""


@dataclass(frozen=True)
class Share:
    """A value as a share of a unit: of the means over seeds; lowest and highest of the seeds, each by its own unit."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class CurvePoint:
    """One point of a curve: x is N or f; nats per pair, one value per seed; no share where the curve has no unit."""

    x: float
    values: tuple[float, ...]
    share: Share | None

    @property
    def mean(self) -> float:
        """Return the mean over the seeds, in nats per pair."""
        return fmean(self.values)


@dataclass(frozen=True)
class Curve:
    """Points in order of x. Their shares are (value - zero) / (one - zero); `one` and `zero` are in nats per pair."""

    points: tuple[CurvePoint, ...]
    zero: tuple[float, ...]
    one: tuple[float, ...]

    @property
    def has_unit(self) -> bool:
        """Return whether the points have shares."""
        return self.points[0].share is not None

    def share_at(self, x: float) -> float:
        """Return the mean share of the point at x."""
        share = next(point.share for point in self.points if point.x == x)
        assert share is not None, "asked only where the curve has a unit"
        return share.mean


@dataclass(frozen=True)
class Findings:
    """Three curves, and what they say: `chunks` over N, `ratios` over f. `gibbs` is one run per seed, or none."""

    plan: Plan
    gibbs: tuple[BruteForce, ...]
    uniform: tuple[float, ...]
    over_N: Curve
    over_f: Curve
    over_f_independent: Curve
    chunks: str
    ratios: str
    recommendation: str
    recommended_num_chunks: int

    @property
    def caveat(self) -> str:
        """Return a sentence where the Gibbs sampling was not done, so that its level is too low; else nothing."""
        num_cut_off = sum(not run.is_flat for run in self.gibbs)
        if not num_cut_off:
            return ""
        return f"Gibbs was stopped before it was flat in {num_cut_off} of {len(self.gibbs)} seeds: raise --iterations."


def find(curves: Curves) -> Findings:
    """Return what the curves say."""
    plan, values = curves.plan, curves.values
    uniform = values[Cell(0.0, plan.num_chunks)]
    over_N = _curve(
        {N: values[Cell(plan.f, N)] for N in plan.chunks},
        zero=values[Cell(plan.f, INDEPENDENT)],
        one=curves.unit_of_chunks,
        uniform=uniform,
    )
    one = values[Cell(UNIT_RATIO, plan.num_chunks)]
    over_f, over_f_independent = (
        _curve({f: values[Cell(f, N)] for f in plan.ratios}, zero=uniform, one=one, uniform=uniform)
        for N in (plan.num_chunks, INDEPENDENT)
    )
    recommended = _recommended(over_N, plan, uniform)
    return Findings(
        plan=plan,
        gibbs=curves.gibbs,
        uniform=uniform,
        over_N=over_N,
        over_f=over_f,
        over_f_independent=over_f_independent,
        chunks=_chunks_sentence(over_N, recommended, plan, uniform),
        ratios=_ratios_sentence(over_f, plan),
        recommendation=_recommendation(over_N, recommended, plan),
        recommended_num_chunks=recommended,
    )


def share(values: Sequence[float], *, zero: Sequence[float], one: Sequence[float]) -> Share:
    """Return where the values lie between zero and one, paired by seed: the ratio of the means, and its range.

    By hand: values (3, 5), zero (1, 1), one (5, 9): the ratio of the means is (2 + 4) / (4 + 8) = 0.5, and of the
    seeds 2/4 and 4/8.
    """
    parts = [(value - z) / (o - z) for value, z, o in zip(values, zero, one, strict=True)]
    return Share((fmean(values) - fmean(zero)) / (fmean(one) - fmean(zero)), min(parts), max(parts))


def unit_name(plan: Plan) -> str:
    """Return the name of what counts as 1 on the curve over N."""
    return "Gibbs" if plan.num_iterations else f"N = {max(plan.chunks)}"


def _curve(
    values: dict[float, tuple[float, ...]] | dict[int, tuple[float, ...]],
    *,
    zero: tuple[float, ...],
    one: tuple[float, ...],
    uniform: tuple[float, ...],
) -> Curve:
    """Return the curve; it has shares where `one` is above `zero` in every seed and by enough of the whole gain."""
    whole_gain = fmean(one) - fmean(uniform)
    has_unit = all(o > z for z, o in zip(zero, one, strict=True))
    has_unit = has_unit and fmean(one) - fmean(zero) >= SMALLEST_GAIN * whole_gain
    points = [CurvePoint(x, v, share(v, zero=zero, one=one) if has_unit else None) for x, v in values.items()]
    return Curve(tuple(points), zero, one)


def _recommended(over_N: Curve, plan: Plan, uniform: Sequence[float]) -> int:
    if over_N.has_unit:
        best = max(over_N.share_at(N) for N in plan.chunks)
        return next(N for N in plan.chunks if over_N.share_at(N) >= ENOUGH * best)
    best_point = max(over_N.points, key=lambda point: point.mean)
    return plan.num_chunks if _best_gain(over_N, uniform) < 1 - ENOUGH else int(best_point.x)


def _best_gain(over_N: Curve, uniform: Sequence[float]) -> float:
    """Return what the best N gains over N = 1, as a part of what N = 1 gains over a uniform batch."""
    best, independent = max(point.mean for point in over_N.points), fmean(over_N.zero)
    gain = abs(independent - fmean(uniform))
    return (best - independent) / gain if gain else 0.0


def _chunks_sentence(over_N: Curve, recommended: int, plan: Plan, uniform: Sequence[float]) -> str:
    name = unit_name(plan)
    if not over_N.has_unit:
        best_gain = _best_gain(over_N, uniform)
        gained = f"the best N gains {100 * best_gain:.1f}% more than N = 1"
        return f"N hardly matters here: {gained}" if best_gain < 1 - ENOUGH else f"On N: {gained}; {name} gains less"
    counted = f"{recommended} chunk{'s reach' if recommended > 1 else ' reaches'}"
    reached = f"{counted} {over_N.share_at(recommended):.2f} of {name}"
    is_largest = recommended == max(plan.chunks)
    return f"{reached}, the most of all N measured" if is_largest else f"{reached}; more would gain little"


def _ratios_sentence(over_f: Curve, plan: Plan) -> str:
    if not over_f.has_unit:
        return "Selection gains nothing over a uniform batch here"
    largest = max(plan.ratios)
    if largest == UNIT_RATIO:
        return f"f = {UNIT_RATIO:g} gains {fmean(over_f.one) - fmean(over_f.zero):.2f} nats per pair"
    return f"f = {largest:g} gains {over_f.share_at(largest):.2f} times what f = {UNIT_RATIO:g} gains"


def _recommendation(over_N: Curve, recommended: int, plan: Plan) -> str:
    if not over_N.has_unit:
        return f"Use N = {recommended}, and look again with a later checkpoint: this can change as logit scales grow."
    if recommended == max(plan.chunks):
        return f"Use N = {recommended}; a larger N was not measured (--chunks)."
    return f"Use N = {recommended}, the smallest N that reaches {ENOUGH:g} of what the best N measured does."
