"""The four pages over score shards: numbers, words where nothing can be drawn, hostile captions, damage."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest

from superbatch_server.service.dashboard.plot import number
from superbatch_server.service.dashboard.scores.learnability_page import MAX_BATCHES
from tests.service.api.world import World
from tests.service.dashboard.scores.scored_world import EASY, HOSTILE, MIXED, UNIFORM, ScoredWorld, checkpoint, uid_of
from tests.service.dashboard.test_pages import outline

PAGES = ("learnability", "examples", "why", "why?row=0", "compare")


def text_of(page: str) -> str:
    """Return the words of a page, with single spaces."""
    main = page[page.index("<main") :]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", main)).split())


def assert_sound(page: str) -> None:
    """Check that a page is well formed and holds nothing that the content policy would stop."""
    found = outline(page)
    assert len(found.ids) == len(set(found.ids))
    assert found.tags.count("h1") == 1
    assert not found.handlers
    assert all(link.startswith(("/", "?", "#")) or ":" not in link for link in found.links)


@pytest.mark.parametrize("path", PAGES)
def test_a_job_without_batches_says_so(scored: ScoredWorld, path: str) -> None:
    page = scored.page(path)
    assert_sound(page)
    assert "No batch is published yet." in text_of(page)


def test_pages_have_the_numbers_of_the_api_and_of_stats(scored: ScoredWorld) -> None:
    scored.publish(MIXED, stats=(3.5, 1.1))
    means = scored.batch()["means"]
    point = scored.world.get(f"/v1/jobs/{scored.job_id}/stats")["segments"][0]
    page = scored.page("learnability")
    assert_sound(page)
    row = re.search(r'<tr><th scope="row">0</th>(.*?)</tr>', page[page.index('id="over-seq-table"') :])
    assert row is not None
    cells = re.findall(r'<td class="num">(.*?)</td>', row[1])
    learnability = means["loss_learner_super_batch"] - means["loss_reference_super_batch"]
    assert cells == ["0", number(learnability), "4", number(means["score_super_batch"]), number(means["score_batch"])]
    assert cells[3:] == [number(point["learnability_super_batch"][0]), number(point["learnability_batch"][0])]


def test_learnability_says_which_quantity_and_which_batches(scored: ScoredWorld) -> None:
    for _ in range(MAX_BATCHES + 5):
        scored.publish(MIXED)
    said = text_of(scored.page("learnability"))
    assert "learner loss − reference loss, of each candidate alone (the diagonal of its loss)" in said
    assert f"Read: {MAX_BATCHES}, evenly spread, of the 53 batches from 0 to 52." in said
    assert "Selected rows have a mean learnability of 4, the pool 1.4: 2.6 more" in said
    assert "53 candidates were dropped" not in said
    assert f"{MAX_BATCHES} candidates were dropped" in said
    assert "all of the 3 batches from 4 to 6" in text_of(scored.page("learnability?from=4&to=6&seq=5"))


def test_softmax_says_probe(world: World) -> None:
    scored = ScoredWorld(world, selection={"loss": "softmax", "probe_size": 3})
    scored.publish(MIXED)
    assert "against a probe of 3 candidates" in text_of(scored.page("learnability"))


def test_rounds_of_a_chosen_batch_are_drawn(scored: ScoredWorld) -> None:
    scored.publish(MIXED)
    page = scored.page("learnability?seq=0")
    assert "In batch 0 the rows of round 1 have a mean score of 4, those of round 2 3" in text_of(page)


def test_uniform_batches_are_words_instead_of_empty_charts(scored: ScoredWorld) -> None:
    scored.publish(UNIFORM, rule="uniform", method="uniform")
    page = scored.page("learnability")
    assert_sound(page)
    assert "<figure" not in page
    assert "Batch 0 is uniform" in text_of(page)
    assert "nothing to compare" in text_of(scored.page("compare"))
    assert "they have no score" in text_of(scored.page("examples"))
    assert "It was drawn at random, as 2 of 4 candidates were" in text_of(scored.page("why?row=10"))
    assert "The draw did not fall on it" in text_of(scored.page("why?row=11"))


def test_easy_reference_has_no_map_of_both_losses(scored: ScoredWorld) -> None:
    scored.publish(EASY, rule="easy_reference", criterion="easy_reference")
    page = scored.page("learnability")
    assert 'id="distribution"' in page
    assert 'id="losses"' not in page
    assert "there is no learner loss. No map of both losses." in text_of(page)
    assert "Ease = − reference loss" in text_of(page)


def test_batches_of_another_quantity_are_counted_and_left_out(scored: ScoredWorld) -> None:
    scored.publish(EASY, rule="easy_reference", criterion="easy_reference")
    scored.publish(MIXED)
    said = text_of(scored.page("learnability"))
    assert "1 of the batches read have another quantity (− reference loss)" in said
    assert "In the charts: 1 batch, 6 candidates." in said


def test_a_job_of_one_generation_has_nothing_to_compare(scored: ScoredWorld) -> None:
    scored.publish(MIXED)
    assert "there are no two generations" in text_of(scored.page("compare"))


def test_variants_are_named(world: World) -> None:
    variants = [
        {"resolution": 32, "flops_fraction": 1.0, "share": 0.5},
        {"resolution": 16, "flops_fraction": 0.3, "share": 0.5},
    ]
    scored = ScoredWorld(world, selection={"variants": variants})
    scored.publish(MIXED)
    assert "2 variants (Flexi)" in text_of(scored.page("examples"))


def test_examples_are_the_best_the_worst_and_the_same_random_ones(scored: ScoredWorld) -> None:
    scored.index()
    scored.publish(MIXED)
    page = scored.page("examples?seq=0")
    assert_sound(page)

    def rows(group: str) -> list[str]:
        part = page[page.index(f'<section id="{group}"') :]
        return re.findall(r'src="/jobs/[^"]*/pictures/(\d+)"', part[: part.index("</section>")])

    assert rows("best") == ["0", "54", "1", "2", "3"]
    assert rows("worst") == ["3", "2", "1", "0", "54"]
    assert sorted(rows("random"), key=int) == ["0", "1", "2", "3", "54", "55"]
    assert page == scored.page("examples?seq=0")
    assert "caption 54" in page
    assert "not finite: 1" in text_of(page)


def test_newly_selected_are_those_passed_over_before(scored: ScoredWorld) -> None:
    scored.publish(replace(MIXED, round=[-1, 1, -1, -1, -1, -1]))
    scored.publish(MIXED)
    said = text_of(scored.page("examples?seq=1"))
    assert "2 of the 2 selected were passed over when they were last a candidate." in said
    assert "passed over in batch 0" in said
    said = text_of(scored.page("examples?seq=0"))
    assert (
        "0 of the 1 selected were passed over when they were last a candidate; 1 were no candidate before it." in said
    )


def test_why_a_row_was_chosen(scored: ScoredWorld) -> None:
    scored.index()
    scored.publish(MIXED, rule="checkpoint", checkpoint=checkpoint(3, trained_seq=7))
    page = scored.page("why?seq=0&row=54")
    assert_sound(page)
    said = text_of(page)
    assert "It was the row drawn in round 2 of 2, with a score of 3 (3.5 with noise)." in said
    assert "generation 3, which had trained 7 batches" in said
    assert "learner loss − reference loss = 4: rank 2 of 5" in said
    assert "gain × score 3, noise 0.5, together 3.5" in said
    assert "round 2 of 2: rank 1 of 3 rows drawn in it or never chosen" in said
    by_uid = text_of(scored.page(f"why?seq=0&row={uid_of(54).hex()}"))
    assert by_uid == said


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            1,
            "the lowest row drawn had 3.5: 1.5 too little. It was number 2 for 1 place.",
        ),
        (3, "A rule kept it out, whatever its score: a row may be chosen 4 times in the job; or the same picture"),
        (55, "its embedding by this learner was not finite"),
        (20, "It was no candidate of batch 0"),
        (60, "quarantined by the index pass (picture too large)"),
        (100, "The data set has no row of this dataset_index."),
    ],
)
def test_why_a_row_was_not_chosen(world: World, row: int, reason: str) -> None:
    scored = ScoredWorld(world, selection={"repetition_cap": 4, "f": 0.9})
    scored.verdicts[60] = "picture_too_large"
    scored.index()
    scored.publish(MIXED)
    assert reason in text_of(scored.page(f"why?seq=0&row={row}"))


def test_a_row_that_was_no_candidate_is_pointed_to_where_it_was(scored: ScoredWorld) -> None:
    scored.index()
    scored.publish(UNIFORM, rule="uniform", method="uniform")
    scored.publish(MIXED)
    scored.publish(UNIFORM, rule="uniform", method="uniform")
    for asked in ("11", uid_of(11).hex()):
        said = text_of(scored.page(f"why?seq=1&row={asked}"))
        assert "The candidacy before: batch 0, passed over" in said
        assert "The candidacy after: batch 2, passed over" in said
    assert "has this uid" in text_of(scored.page(f"why?seq=1&row={'0' * 32}"))


def test_two_generations_are_compared_over_shared_rows(scored: ScoredWorld) -> None:
    scored.index()
    scored.publish(MIXED, rule="checkpoint", checkpoint=checkpoint(1, trained_seq=0))
    turned = replace(MIXED, learner=[1.0, 4.0, 5.0, 9.0, 6.0, None])
    scored.publish(turned, rule="checkpoint", checkpoint=checkpoint(2, trained_seq=1))
    page = scored.page("compare")
    assert_sound(page)
    said = text_of(page)
    assert "Generation 1 and generation 2" in said
    assert "Only 5 rows were scored in both: too few" in said
    # Learnability before 4 1 0 -2 4, after 0 1 2 5 4; ranks 1.5 3 4 5 1.5 and 5 4 3 1 2: -5.5 / sqrt(9.5 * 10).
    assert "5 rows were scored in both, with a rank correlation of -0.56; their mean learnability rose by 1" in said
    assert "rank 5 to 1 of 5" in said
    assert text_of(scored.page("compare?a=0&b=1")).count("rank correlation of -0.56") >= 1


def test_sides_that_share_nothing_or_measure_otherwise_say_so(scored: ScoredWorld) -> None:
    scored.publish(MIXED)
    scored.publish(replace(MIXED, index=[20, 21, 22, 23, 24, 25]))
    scored.publish(EASY, rule="easy_reference", criterion="easy_reference")
    assert "No row was scored in both" in text_of(scored.page("compare?a=0&b=1"))
    assert "two quantities, which have no common scale" in text_of(scored.page("compare?a=0&b=2"))
    assert "Both sides are the same" in text_of(scored.page("compare?a=1&b=1"))
    assert "No published batch was scored by it" in text_of(scored.page("compare?a=0&b=g7"))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("learnability?from=x", 422),
        ("examples?seq=99", 404),
        ("examples?seq=-1", 422),
        ("why?row=<script>", 422),
        ("why?row=1&seq=99999999999999999999", 422),
        ("compare?a=zz", 422),
        ("compare?a=99", 404),
        ("pictures/100", 404),
        ("pictures/abc", 404),
    ],
)
def test_an_address_that_asks_for_nothing_is_a_page_that_says_so(scored: ScoredWorld, path: str, status: int) -> None:
    scored.index()
    scored.publish(MIXED)
    assert "<script>" not in scored.page(path, status=status)


def test_a_missing_score_shard_is_said_and_the_other_batches_are_shown(scored: ScoredWorld) -> None:
    key = scored.publish(MIXED)
    scored.publish(MIXED)
    path = scored.world.store.local_path(key)
    assert path is not None
    path.unlink()
    said = text_of(scored.page("learnability"))
    assert "1 of 2 batches could not be read." in said
    assert "the pool 1.4" in said
    assert "must be in the store" in text_of(scored.page("examples?seq=0", status=503))


def test_hostile_and_endless_captions_stay_text(scored: ScoredWorld) -> None:
    scored.captions |= {0: HOSTILE, 1: "x" * 1_000_000, 2: None}
    scored.index()
    scored.publish(MIXED)
    for path in ("examples?seq=0", "why?seq=0&row=0", "why?seq=0&row=1"):
        page = scored.page(path)
        assert_sound(page)
        assert "<img src=x" not in page
        assert "\u202e" not in page
        assert "\x1b" not in page
        assert len(page) < 200_000
    assert "no caption" in scored.page("examples?seq=0")


def test_a_caption_that_the_index_does_not_have_is_read_from_the_shard(scored: ScoredWorld) -> None:
    scored.captions |= {54: "only in the shard", 1: "y" * 100_000}
    scored.not_in_index |= {54, 1}
    scored.index()
    scored.publish(MIXED)
    page = scored.page("examples?seq=0")
    assert "only in the shard" in page
    assert "y" * 100 in page
    assert len(page) < 200_000


def test_nobody_sees_a_page_or_a_picture_without_credential(scored: ScoredWorld) -> None:
    scored.index()
    scored.publish(MIXED)
    stranger = scored.world.client_with()
    for path in (*PAGES, "pictures/0"):
        assert stranger.get(f"/jobs/{scored.job_id}/{path}").status_code == 401
