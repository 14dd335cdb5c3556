"""Numbers of a super-batch, worked out by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superbatch.formats.embedding_shard import INDEX_KIND
from superbatch.formats.parquet_file import render_parquet
from superbatch.formats.score_shard import read_score_shard
from superbatch_server.service.dashboard.scores.histograms import distribution, loss_map
from superbatch_server.service.dashboard.scores.rivals import Rank, standing_of
from superbatch_server.service.scored_batches.bounded_cache import BoundedCache
from superbatch_server.service.scored_batches.comparison import Side, compare, ranks
from superbatch_server.service.scored_batches.earlier import MAX_BATCHES, Seen, nearest_candidacies
from superbatch_server.service.scored_batches.measures import (
    Quantity,
    counts_of,
    mean,
    quantity_of,
    rounds_of,
    values_of,
)
from superbatch_server.service.scored_batches.published import spread_seqs
from superbatch_server.service.scored_batches.rows import read_captions
from superbatch_server.service.scored_batches.scores import Scores, scores_of
from superbatch_server.storage.index_files import INDEX_SCHEMA
from tests.service.dashboard.scores.scored_world import EASY, MIXED, UNIFORM, Candidates, shard_bytes, uid_of


def scores(found: Candidates, *, is_scored: bool = True) -> Scores:
    return scores_of(read_score_shard(shard_bytes(found, 0)).rows, is_scored=is_scored)


def test_the_quantity_is_what_the_losses_allow() -> None:
    assert quantity_of(scores(MIXED)) is Quantity.LEARNABILITY
    assert quantity_of(scores(EASY)) is Quantity.EASE
    assert quantity_of(scores(UNIFORM, is_scored=False)) is None
    assert values_of(scores(MIXED), Quantity.LEARNABILITY).tolist()[:5] == [4, 1, 0, -2, 4]
    assert values_of(scores(EASY), Quantity.EASE).tolist() == [-1, -3, -2, -4]


def test_a_uniform_batch_drops_nobody() -> None:
    counts = counts_of(scores(UNIFORM, is_scored=False))
    assert (counts.selected, counts.not_selected, counts.dropped) == (2, 2, 0)


def test_rounds_have_their_own_means() -> None:
    first, second = rounds_of(scores(MIXED), Quantity.LEARNABILITY)
    assert (first.rows, first.mean_score, first.mean_alone, first.lowest_perturbed) == (1, 4.0, 4.0, 5.0)
    assert (second.rows, second.mean_score, second.mean_alone, second.lowest_perturbed) == (1, 3.0, 4.0, 3.5)


def test_pool_and_selected_are_compared_by_the_same_quantity() -> None:
    found = scores(MIXED)
    values = values_of(found, Quantity.LEARNABILITY)
    chart = distribution(values, found.chosen, Quantity.LEARNABILITY)
    assert chart is not None
    assert mean(values, np.ones(6, dtype=bool)) == pytest.approx(1.4)
    assert chart.finding == "Selected rows have a mean learnability of 4, the pool 1.4: 2.6 more"
    assert [key.label for key in chart.drawing.keys] == ["selected, 2", "pool, 5"]


def test_the_map_of_losses_counts_every_candidate_once() -> None:
    found = scores(MIXED)
    chart = loss_map(found.loss_learner, found.loss_reference, found.chosen)
    assert chart is not None
    # Learner above reference: rows 0, 1 and 54, of which two were chosen; not above: 2 (equal) and 3.
    assert chart.finding.endswith("66.7% were selected; of the others, 0.0%")
    cells = [cell for row in chart.table.rows for cell in row[1:] if cell != "–"]
    assert sum(int(cell.split(" of ")[1]) for cell in cells) == 5
    assert sum(int(cell.split(" of ")[0]) for cell in cells) == 2


def test_no_chart_without_values() -> None:
    found = scores(UNIFORM, is_scored=False)
    assert distribution(found.score, found.chosen, Quantity.SCORE) is None
    assert loss_map(found.loss_learner, found.loss_reference, found.chosen) is None


def test_ranks_of_a_row_chosen_in_the_first_round_are_those_of_that_round() -> None:
    found = standing_of(scores(MIXED), 0, Quantity.LEARNABILITY)
    assert (found.round, found.drawn, found.threshold, found.is_comparable) == (1, 1, 5.0, False)
    assert found.in_round == Rank(1, 1)
    assert found.at_start == Rank(1, 5)
    assert found.nearest_not_chosen == [1, 2]


def test_ranks_in_the_last_round_are_among_those_never_chosen_too() -> None:
    found = standing_of(scores(MIXED), 2, Quantity.LEARNABILITY)
    assert (found.round, found.threshold, found.is_comparable) == (2, 3.5, True)
    assert found.in_round == Rank(3, 3)
    assert found.rivals == [4, 1, 2]


def test_an_excluded_and_a_dropped_row_have_no_rank_in_the_round() -> None:
    assert standing_of(scores(MIXED), 3, Quantity.LEARNABILITY).in_round is None
    assert standing_of(scores(MIXED), 5, Quantity.LEARNABILITY).at_start is None


def test_rows_are_found_by_index_and_by_uid() -> None:
    found = scores(MIXED)
    assert (found.place_of_index(54), found.place_of_index(7)) == (4, None)
    assert (found.place_of_uid(uid_of(55)), found.place_of_uid(uid_of(7))) == (5, None)


def test_the_nearest_candidacy_counts_and_the_search_is_bounded() -> None:
    batches = {3: scores(MIXED), 2: None, 1: scores(EASY), 0: scores(UNIFORM, is_scored=False)}
    search = nearest_candidacies(np.array([1, 10, 99]), [3, 2, 1, 0], batches.__getitem__)
    assert search.found == {1: Seen(3, False), 10: Seen(0, True)}
    assert search.seqs == (3, 1, 0)
    asked: list[int] = []
    nearest_candidacies(np.array([99]), range(10_000), lambda seq: asked.append(seq) or batches[3])  # type: ignore[func-returns-value]
    assert len(asked) == MAX_BATCHES


def side(values: dict[int, float], *, seq: int = 0) -> Side:
    index = np.array(list(values), dtype=np.int64)
    whole = np.arange(len(index), dtype=np.int64)
    return Side(
        index, np.array(list(values.values())), np.zeros(len(index), dtype=bool), np.full_like(whole, seq), whole
    )


def test_a_comparison_is_over_rows_that_both_scored() -> None:
    found = compare(side({1: 5.0, 2: 3.0, 3: 1.0, 4: np.nan, 9: 7.0}), side({3: 9.0, 2: 4.0, 1: 2.0, 4: 1.0}))
    assert found.dataset_index.tolist() == [1, 2, 3]
    assert found.rise.tolist() == [-2, 0, 2]
    assert found.correlation == pytest.approx(-1.0)
    assert found.quintile_moves().sum() == 3


def test_of_several_candidacies_the_last_counts() -> None:
    twice = Side(np.array([1, 1]), np.array([2.0, 8.0]), np.zeros(2, dtype=bool), np.array([5, 3]), np.array([0, 1]))
    assert compare(twice, side({1: 0.0})).a.tolist() == [2.0]


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [3.0, 3.0, 3.0]])
def test_too_little_has_no_correlation(values: list[float]) -> None:
    one = side(dict(enumerate(values)))
    assert compare(one, one).correlation is None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_ranks_sum_to_that_of_a_permutation(values: list[int]) -> None:
    found = ranks(np.array(values, dtype=np.float64))
    assert found.sum() == pytest.approx(len(values) * (len(values) + 1) / 2)
    assert all((found[i] < found[j]) == (values[i] > values[j]) for i in range(len(values)) for j in range(len(values)))


@given(st.integers(0, 50), st.integers(1, 200), st.integers(1, 60))
def test_spread_seqs_are_bounded_and_reach_both_ends(start: int, length: int, at_most: int) -> None:
    seqs = spread_seqs(start, start + length, at_most=at_most)
    assert len(seqs) == len(set(seqs)) == min(length, at_most)
    assert seqs == sorted(seqs)
    assert seqs[-1] == start + length - 1
    assert at_most == 1 or seqs[0] == start


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 40)), max_size=60))
def test_the_cache_returns_what_load_would_and_stays_within_its_bytes(asked: list[tuple[int, int]]) -> None:
    cache: BoundedCache[bytes] = BoundedCache(max_bytes=64)
    weight_of = dict(reversed(asked))
    for key, _ in asked:
        assert cache.get(str(key), lambda key=key: bytes(weight_of[key]), len) == bytes(weight_of[key])  # type: ignore[misc]
        assert sum(len(value) for value, _ in cache._kept.values()) <= 64


def test_captions_too_large_to_unpack_are_left_out_and_a_long_one_is_cut() -> None:
    columns = {field.name: [None, None] for field in INDEX_SCHEMA} | {"caption": ["ab" * 5000, "short"]}
    kept = {"uid": [bytes(16)] * 2, "a_sha256": [bytes(32)] * 2, "key": [""] * 2, "verdict": ["ok"] * 2}
    table = pa.table(columns | kept | {"sample_offset": [0, 0], "sample_length": [0, 0]}, schema=INDEX_SCHEMA)
    data = render_parquet([table], INDEX_SCHEMA, file_kind=INDEX_KIND, metadata={})
    assert read_captions(data, max_bytes=5000) is None
    found = read_captions(data, max_bytes=50_000)
    assert found.to_pylist() == ["ab" * 1000, "short"]


def test_a_column_without_values_is_read_as_nan() -> None:
    assert np.isnan(scores(EASY).loss_learner).all()
