"""Every number that a batch list and a score shard publish, against full matrices in fp64."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from superbatch.selection import Candidates, DualEmbeddings, SelectionSpec
from superbatch.selection.noise import SLOT_ROUND
from superbatch_server.schemas import jobs
from superbatch_server.schemas.attempts import ScheduleRow, WalkPosition
from superbatch_server.workers.compose import Composed, LearnerNotFinite, compose
from superbatch_server.workers.row_scorer import RowEmbeddings
from tests.superbatch.selection import made, plain

B, B_SMALL, N, SEED, SEQ = 40, 12, 5, 17, 1234
DROPPED = 7
RNG = np.random.default_rng(3)
UID = RNG.integers(0, 256, (B, 16), dtype=np.uint8)
INDEX = RNG.permutation(1000)[:B].astype(np.int64)
LEARNER, REFERENCE = made.model(RNG, B, 8, scale=30.0), made.model(RNG, B, 8, scale=50.0, bias=-12.0)
KEPT = np.delete(np.arange(B), DROPPED)


def rows_of(model: DualEmbeddings, *, dropped: bool) -> RowEmbeddings:
    image, text = (tower.float().numpy().copy() for tower in (model.image, model.text))
    if dropped:
        text[DROPPED] = np.nan
    return RowEmbeddings(image, text, model.logit_scale, model.logit_bias)


def table() -> pa.Table:
    numbers = pa.array(np.arange(B))
    columns = {
        "uid": pa.array([uid.tobytes() for uid in UID], type=pa.binary(16)),
        "dataset_index": pa.array(INDEX),
        "shard_id": pa.array(np.zeros(B, dtype=np.int32)),
        "sample_index": pa.array(np.arange(B, dtype=np.int32)),
        "key": pa.array([str(i) for i in range(B)]),
        "source": pa.array(["odd" if i % 2 else "even" for i in range(B)]),
    }
    for name in ("sample", "a", "b"):
        columns |= {f"{name}_offset": numbers, f"{name}_length": numbers}
    return pa.table(columns)


def composed(method: str = "joint") -> Composed:
    row = ScheduleRow(
        seq=SEQ,
        rule="fixed",
        checkpoint=None,
        method=jobs.Method(method),
        criterion=jobs.Criterion.LEARNABILITY,
        f=0.7,
        B=B,
        gain=0.4,
        weights=(1.0, 0.6),
        walk=WalkPosition(),
        micro_batch=4,
    )
    spec = jobs.SelectionSpec(b=B_SMALL, N=N, gain=9.0, weights=(3.0, 3.0))  # what is scheduled comes from the row
    learner, reference = rows_of(LEARNER, dropped=True), rows_of(REFERENCE, dropped=False)
    return compose(row, table(), learner=learner, reference=reference, selection=spec, seed=SEED)


def expected(method: str = "joint") -> tuple[list[int], list[int], list[float], list[float]]:
    """Positions among the kept, as `plain.select` gives them."""
    kept = Candidates(
        uid=UID[KEPT], dataset_index=INDEX[KEPT], learner=LEARNER.take(KEPT), reference=REFERENCE.take(KEPT)
    )
    spec = SelectionSpec(method, "learnability", B_SMALL, N, 0.4, (1.0, 0.6), seed=SEED, seq=SEQ)  # type: ignore[arg-type]
    return plain.select(kept, spec)


@pytest.mark.parametrize("method", ["joint", "independent"])
def test_the_score_shard_explains_every_choice(method: str) -> None:
    scores = composed(method).scores.to_pydict()
    chosen, rounds, score, perturbed = expected(method)
    assert scores["dataset_index"] == INDEX.tolist()
    assert scores["uid"] == [uid.tobytes() for uid in UID]
    assert set(scores["batch_seq"]) == {SEQ}
    assert scores["round"][DROPPED] == -1
    for name in ("loss_learner", "loss_reference", "score", "perturbed_score"):
        assert scores[name][DROPPED] is None
    assert [scores["round"][i] for i in KEPT] == rounds
    for name, values in (
        ("score", score),
        ("perturbed_score", perturbed),
        ("loss_learner", plain.pair_losses(LEARNER).diagonal()[KEPT]),
        ("loss_reference", plain.pair_losses(REFERENCE).diagonal()[KEPT]),
    ):
        np.testing.assert_allclose([scores[name][i] for i in KEPT], values, rtol=2e-4, atol=2e-4, err_msg=name)
    assert len(chosen) == B_SMALL


def test_the_batch_list_holds_the_chosen_in_slot_order_with_their_own_loss_within_the_batch() -> None:
    batch = composed().batch.to_pydict()
    chosen, rounds, score, _ = expected()
    noise = {i: plain.gumbel(SEED, SEQ, SLOT_ROUND, UID[KEPT[i]].tobytes()) for i in chosen}
    slots = sorted(chosen, key=lambda i: -noise[i])
    members = KEPT[slots]
    assert batch["dataset_index"] == INDEX[members].tolist()
    assert batch["uid"] == [UID[i].tobytes() for i in members]
    assert batch["slot"] == list(range(B_SMALL))
    assert batch["chunk"] == [rounds[i] for i in slots]
    np.testing.assert_allclose(batch["score"], [score[i] for i in slots], rtol=2e-4, atol=2e-4)
    for name, model in (("loss_learner", LEARNER), ("loss_reference", REFERENCE)):
        P_bb = plain.pair_losses(model)[np.ix_(members, members)]
        without = [np.delete(np.delete(P_bb, i, 0), i, 1).sum() for i in range(B_SMALL)]
        np.testing.assert_allclose(batch[name], P_bb.sum() - np.array(without), rtol=2e-4, atol=2e-4)


def test_candidates_selected_and_dropped_are_counted_by_source() -> None:
    made_ = composed()
    members = set(made_.batch.column("sample_index").to_pylist())
    for source, odd in (("even", 0), ("odd", 1)):
        counts = made_.counts[source]
        assert counts.candidates == B // 2
        assert counts.dropped == (odd == DROPPED % 2)
        assert counts.selected == sum(i % 2 == odd for i in members)


def test_a_criterion_needs_b_finite_candidates() -> None:
    broken = rows_of(LEARNER, dropped=False)
    broken.image[: B - B_SMALL + 1] = np.inf
    row = ScheduleRow(
        seq=SEQ,
        rule="fixed",
        checkpoint=None,
        method=jobs.Method.JOINT,
        criterion=jobs.Criterion.HARD_LEARNER,
        f=0.7,
        B=B,
        gain=1.0,
        weights=(1.0, 1.0),
        walk=WalkPosition(),
        micro_batch=4,
    )
    selection = jobs.SelectionSpec(b=B_SMALL, N=N)
    with pytest.raises(LearnerNotFinite, match=rf"b = {B_SMALL} .* got {B_SMALL - 1}"):
        compose(row, table(), learner=broken, reference=None, selection=selection, seed=SEED)
