"""`GET /v1/jobs/{job}/batches/{seq}`: head, counts, means and rows of one published batch."""

from __future__ import annotations

import pytest
from sqlalchemy import delete

from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.tables import segments
from tests.service.api.world import World, problem
from tests.service.catalog.builders import sha
from tests.service.dashboard.scores.scored_world import (
    EASY,
    MIXED,
    UNIFORM,
    ScoredWorld,
    checkpoint,
    shard_bytes,
    uid_of,
)


@pytest.fixture
def scored(world: World) -> ScoredWorld:
    return ScoredWorld(world)


def test_head_counts_and_means_are_those_worked_out_by_hand(scored: ScoredWorld) -> None:
    scored.publish(MIXED, rule="checkpoint", checkpoint=checkpoint(3, trained_seq=-4), gain=2.0)
    found = scored.batch()
    assert found["counts"] == {"candidates": 6, "selected": 2, "not_selected": 2, "excluded": 1, "dropped": 1}
    assert found["means"] == pytest.approx(
        {
            "score_super_batch": 1.1,
            "score_batch": 3.5,
            "loss_learner_super_batch": 4.0,
            "loss_learner_batch": 5.5,
            "loss_reference_super_batch": 2.6,
            "loss_reference_batch": 1.5,
        }
    )
    head = {name: found[name] for name in ("seq", "rule", "generation", "staleness", "B", "b", "N", "f", "gain")}
    assert head == {
        **{"seq": 0, "rule": "checkpoint", "generation": 3, "staleness": 4},
        **{"B": 6, "b": 2, "N": 2, "f": 0.5, "gain": 2.0},
    }
    assert (found["method"], found["criterion"], found["loss"]) == ("joint", "learnability", "sigmoid")
    assert found["checkpoint"]["id"] == f"checkpoint_{3:016x}"


def test_rows_come_in_the_order_of_the_draw_with_everything_that_is_known(scored: ScoredWorld) -> None:
    scored.publish(MIXED)
    rows = scored.batch()["rows"]
    assert [row["dataset_index"] for row in rows] == MIXED.index
    assert [row["fate"] for row in rows] == ["chosen", "not_chosen", "not_chosen", "excluded", "chosen", "dropped"]
    assert [row["round"] for row in rows] == [1, None, None, None, 2, None]
    assert [row["perturbed_score"] for row in rows] == [5.0, 2.0, 0.5, None, 3.5, None]
    assert [row["score"] for row in rows] == [4.0, 0.5, 0.0, -2.0, 3.0, None]
    assert [row["loss_learner"] for row in rows] == MIXED.learner
    assert [row["loss_reference"] for row in rows] == MIXED.reference
    assert [row["uid"] for row in rows] == [uid_of(index).hex() for index in MIXED.index]
    assert {row["source"] for row in rows} == {"emoji"}
    assert {row["caption"] for row in rows} == {None}


@pytest.mark.parametrize("page_size", [1, 2, 5, 6, 500])
def test_pages_together_are_the_whole_super_batch(scored: ScoredWorld, page_size: int) -> None:
    scored.publish(MIXED)
    found, token = [], {}
    while True:
        page = scored.batch(page_size=page_size, **token)
        assert len(page["rows"]) <= page_size
        found += [row["dataset_index"] for row in page["rows"]]
        if page["next_page_token"] is None:
            break
        token = {"page_token": page["next_page_token"]}
    assert found == MIXED.index


def test_captions_come_when_asked_for_and_are_cut(scored: ScoredWorld) -> None:
    scored.captions[1] = "x" * 5000
    scored.index()
    scored.publish(MIXED)
    captions = [row["caption"] for row in scored.batch(fields="caption")["rows"]]
    assert captions[0] == "caption 0"
    assert captions[1] == "x" * 2000
    assert captions[4] == "caption 54"


def test_means_equal_those_of_stats(scored: ScoredWorld) -> None:
    scored.publish(MIXED, stats=(3.5, 1.1))
    point = scored.world.get(f"/v1/jobs/{scored.job_id}/stats")["segments"][0]
    means = scored.batch()["means"]
    assert point["learnability_batch"] == pytest.approx([means["score_batch"]])
    assert point["learnability_super_batch"] == pytest.approx([means["score_super_batch"]])


def test_uniform_and_easy_reference_batches_have_nulls_where_nothing_was_scored(scored: ScoredWorld) -> None:
    scored.publish(UNIFORM, rule="uniform", method="uniform")
    scored.publish(EASY, rule="easy_reference", criterion="easy_reference")
    uniform, easy = scored.batch(0), scored.batch(1)
    assert uniform["criterion"] is None
    assert set(uniform["means"].values()) == {None}
    assert uniform["counts"] == {"candidates": 4, "selected": 2, "not_selected": 2, "excluded": 0, "dropped": 0}
    assert easy["criterion"] == "easy_reference"
    assert easy["means"]["loss_learner_super_batch"] is None
    assert easy["means"]["score_batch"] == -1.5


def test_a_batch_that_is_not_published_is_404(scored: ScoredWorld) -> None:
    scored.publish(MIXED)
    problem(scored.world.client.get(f"/v1/jobs/{scored.job_id}/batches/1"), "not_found", "seq 1", "below 1")
    problem(scored.world.client.get("/v1/jobs/job_0000000000000000/batches/0"), "not_found")


def test_a_batch_behind_retention_is_410_with_the_oldest(scored: ScoredWorld) -> None:
    for _ in range(3):
        scored.publish(MIXED)
    with write(scored.world.engine) as connection:
        connection.execute(delete(segments).where(segments.c.first_seq < 2))
    body = problem(scored.world.client.get(f"/v1/jobs/{scored.job_id}/batches/1"), "behind_retention")
    assert body["oldest_seq"] == 2


@pytest.mark.parametrize("damage", ["missing", "not parquet", "other data set"])
def test_a_score_shard_that_cannot_be_read_is_503(scored: ScoredWorld, damage: str) -> None:
    data = shard_bytes(MIXED, 0, fingerprint=sha("another")) if damage == "other data set" else b"garbage" * 100
    key = scored.publish(MIXED, data=data)
    if damage == "missing":
        path = scored.world.store.local_path(key)
        assert path is not None
        path.unlink()
    problem(scored.world.client.get(f"/v1/jobs/{scored.job_id}/batches/0"), "unavailable", key)


def test_a_segment_that_names_no_score_shard_is_503(world: World) -> None:
    job_id = world.submit()
    world.publish(job_id)
    problem(world.client.get(f"/v1/jobs/{job_id}/batches/0"), "unavailable", "names none")


@pytest.mark.parametrize(
    "query",
    [
        "page_size=0",
        "page_size=501",
        "fields=password",
        "fields=caption&fields=caption",
    ],
)
def test_a_query_of_another_form_is_422(scored: ScoredWorld, query: str) -> None:
    scored.publish(MIXED)
    problem(scored.world.client.get(f"/v1/jobs/{scored.job_id}/batches/0?{query}"), "validation")


@pytest.mark.parametrize("seq", ["-1", "x", str(1 << 63), "1e3"])
def test_a_seq_of_another_form_is_422(scored: ScoredWorld, seq: str) -> None:
    problem(scored.world.client.get(f"/v1/jobs/{scored.job_id}/batches/{seq}"), "validation")


def test_a_token_of_another_batch_is_refused(scored: ScoredWorld) -> None:
    scored.publish(MIXED)
    scored.publish(MIXED)
    token = scored.batch(0, page_size=2)["next_page_token"]
    assert scored.batch(0, page_size=2, page_token=token)["rows"][0]["dataset_index"] == MIXED.index[2]
    for other in (token, "abc", "e30"):
        answer = scored.world.client.get(f"/v1/jobs/{scored.job_id}/batches/1", params={"page_token": other})
        problem(answer, "page_token_refused", "page_token")
