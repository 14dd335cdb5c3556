"""The charts of a job over its batches; the title of each is the sentence that it proves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.schemas.selection import Criterion, Method
from superbatch_server.schemas.stats import JobStats, SourceStats
from superbatch_server.service.dashboard.curve import Curve, Ratio
from superbatch_server.service.dashboard.history import History
from superbatch_server.service.dashboard.plot import Chart, Series, chart, number
from superbatch_server.service.dashboard.safe_text import plain

SOURCE_STYLES = ("", "second", "third", "fourth")
NAME_LENGTH = 40


def charts(history: History, spec: CurateSpec, stats: JobStats) -> list[Chart]:
    """Return the charts that say something for this job; none before the first batch."""
    made = [_filter(history, stats), _lift(history, stats.sources), _score(history, spec)]
    if spec.pushes:
        made += [_staleness(history, spec, stats), _generation(history, stats)]
    return [one for one in made if one is not None]


def _filter(history: History, stats: JobStats) -> Chart | None:
    ratio = Ratio(history.selected, history.candidates, lambda kept_share: 1 - kept_share)
    ends = [value for _, _, value in ratio.spans() if value is not None]
    if stats.filter_ratio is None or not ends:
        return None
    over_time = ""
    if abs(ends[-1] - ends[0]) >= 0.01:
        over_time = f", from {1 - ends[0]:.0%} at the first to {1 - ends[-1]:.0%} at the newest"
    finding = f"Batches keep {1 - stats.filter_ratio:.1%} of their candidates{over_time}"
    series = [Series("filter ratio", "", ratio, "sum")]
    note = "1 - selected / candidates."
    return chart("chart-filter", finding, "Filter ratio", series, is_count=False, note=note, within=(0.0, 1.0))


def _lift(history: History, sources: Mapping[str, SourceStats]) -> Chart | None:
    """Draw the sources that selection moves most; a job of one source has nothing to compare."""
    known = [(name, one.lift) for name, one in sources.items() if one.lift is not None and name in history.by_source]
    if len(known) < 2:
        return None
    by_lift = sorted(known, key=lambda item: (-item[1], item[0]))
    half = len(SOURCE_STYLES) // 2
    drawn = by_lift if len(by_lift) <= len(SOURCE_STYLES) else [*by_lift[:half], *by_lift[-half:]]
    series = [
        Series(plain(name, NAME_LENGTH), style, _lift_over_batches(history, name, sources[name].pool_share), "sum")
        for (name, _), style in zip(drawn, SOURCE_STYLES, strict=False)
    ]
    (most, high), (least, low) = by_lift[0], by_lift[-1]
    finding = (
        f"Source {plain(most, NAME_LENGTH)} is kept {high:.2f} times its share of the pool, "
        f"{plain(least, NAME_LENGTH)} {low:.2f} times"
    )
    hidden = len(known) - len(drawn)
    note = f"Lift; {hidden:,} sources between these are not drawn." if hidden else "Lift: kept share / pool share."
    return chart("chart-lift", finding, "Lift by source", series, is_count=False, note=note, within=(0.0, 1.0))


def _score(history: History, spec: CurateSpec) -> Chart | None:
    if spec.selection.methods() == {Method.UNIFORM}:
        return None
    word = _criterion_word(spec)
    series = (
        Series("batch", "", history.mean_batch),
        Series("super-batch", "second", history.mean_super_batch),
    )
    chosen, offered = _newest(history.mean_batch), _newest(history.mean_super_batch)
    if chosen is None or offered is None:
        return None
    finding = f"Chosen rows have a mean {word} of {number(chosen)}, their super-batch {number(offered)}"
    return chart("chart-score", finding, f"Mean {word}", series, is_count=False, note=_not_drawn(history.not_drawn()))


def _staleness(history: History, spec: CurateSpec, stats: JobStats) -> Chart | None:
    newest, allowed = newest_staleness(stats), spec.refresh.max_staleness
    if stats.max_staleness is None:
        return None
    now = "has no score" if newest is None else f"was scored {newest:,} batches late"
    finding = f"The newest batch {now}, the oldest score was {stats.max_staleness:,} late; {allowed:,} are allowed"
    series = [Series("staleness", "", history.staleness, merge="max", is_step=True)]
    note = f"At {allowed:,} batches: {spec.refresh.on_stale}."
    return chart("chart-staleness", finding, "Staleness in batches", series, is_count=True, note=note)


def newest_staleness(stats: JobStats) -> int | None:
    """Return how old the score of the newest batch is, in batches; None where no pushed checkpoint scored it."""
    staleness = stats.segments[-1].staleness if stats.segments else None
    return staleness[-1] if staleness else None


def _generation(history: History, stats: JobStats) -> Chart | None:
    if not stats.segments:
        return None
    newest = stats.segments[-1].generation
    each = f"; one lasted {stats.next_seq / (newest + 1):,.0f} batches on average" if newest else ""
    finding = f"Generation {newest:,} scored the newest batch{each}"
    series = [Series("generation", "", history.generation, merge="last", is_step=True)]
    note = "Learner refreshes so far; 0 is before the first checkpoint."
    return chart("chart-generation", finding, "Generation", series, is_count=True, note=note)


def _lift_over_batches(history: History, source: str, pool_share: float | None) -> Ratio:
    assert pool_share, "a source that has a lift has a share of the pool"
    return Ratio(history.by_source[source][1], history.selected, lambda kept_share: kept_share / pool_share)


def _newest(curve: Curve) -> float | None:
    return next((value for _, _, value in reversed(list(curve.spans("last"))) if value is not None), None)


def _criterion_word(spec: CurateSpec) -> str:
    criterion = spec.selection.criterion if spec.selection.criteria() else None
    return criterion.value.replace("_", " ") if isinstance(criterion, Criterion) else "score"


def _not_drawn(other: Sequence[tuple[range, str]]) -> str:
    if not other:
        return ""
    num_batches = sum(len(seqs) for seqs, _ in other)
    rules = " and ".join(sorted({rule.replace("_", " ") for _, rule in other}))
    return f"Not drawn: {num_batches:,} {'batch' if num_batches == 1 else 'batches'} scored by {rules} instead."
