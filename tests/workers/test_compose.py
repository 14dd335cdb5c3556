"""Every number that a batch list and a score shard publish, against full matrices in fp64."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pytest

from superbatch.formats.batch_list import digest_of_rows, write_batch_list
from superbatch.selection import Candidates, DualEmbeddings, SelectionSpec
from superbatch.selection import spec as spec_module
from superbatch.selection.noise import SLOT_ROUND, VARIANT_ROUND
from superbatch_server.schemas import selection as schemas
from superbatch_server.schemas.attempts import ScheduleRow, WalkPosition
from superbatch_server.workers.compose import BatchNotFilled, Composed, LearnerNotFinite, compose
from superbatch_server.workers.row_scorer import RowEmbeddings
from tests.superbatch.selection import made, plain

B, B_SMALL, N, SEED, SEQ = 40, 12, 5, 17, 1234
DROPPED = 7
RNG = np.random.default_rng(3)
UID = RNG.integers(0, 256, (B, 16), dtype=np.uint8)
CONTENT = np.random.default_rng(4).integers(0, 256, (B, 32), dtype=np.uint8)
INDEX = RNG.permutation(1000)[:B].astype(np.int64)
LEARNER, REFERENCE = made.model(RNG, B, 8, scale=30.0), made.model(RNG, B, 8, scale=50.0, bias=-12.0)
KEPT = np.delete(np.arange(B), DROPPED)
Changes = dict[str, Any]


def rows_of(model: DualEmbeddings, *, dropped: bool) -> RowEmbeddings:
    image, text = (tower.float().numpy().copy() for tower in (model.image, model.text))
    if dropped:
        text[DROPPED] = np.nan
    return RowEmbeddings(image, text, model.logit_scale, model.logit_bias)


def table(content: np.ndarray = CONTENT) -> pa.Table:
    numbers = pa.array(np.arange(B))
    columns = {
        "uid": pa.array([uid.tobytes() for uid in UID], type=pa.binary(16)),
        "a_sha256": pa.array([row.tobytes() for row in content], type=pa.binary(32)),
        "dataset_index": pa.array(INDEX),
        "shard_id": pa.array(np.zeros(B, dtype=np.int32)),
        "sample_index": pa.array(np.arange(B, dtype=np.int32)),
        "key": pa.array([str(i) for i in range(B)]),
        "source": pa.array(["odd" if i % 2 else "even" for i in range(B)]),
    }
    for name in ("sample", "a", "b"):
        columns |= {f"{name}_offset": numbers, f"{name}_length": numbers}
    return pa.table(columns)


def row_of(**changes: Any) -> ScheduleRow:
    fields = {
        "method": "joint",
        "criterion": "learnability",
        "f": 0.7,
        "B": B,
        "gain": 0.4,
        "weights": (1.0, 0.6),
    }
    fixed = {"seq": SEQ, "rule": "fixed", "checkpoint": None, "walk": WalkPosition(), "micro_batch": 4}
    return ScheduleRow.model_validate(fixed | fields | changes)


def composed(
    *,
    content: np.ndarray = CONTENT,
    times_chosen: np.ndarray | None = None,
    learner: bool = True,
    row: Changes | None = None,
    **selection: Any,
) -> Composed:
    constants = {"b": B_SMALL, "N": N, "gain": 9.0, "weights": (3.0, 3.0)}  # what is scheduled comes from the row
    return compose(
        row_of(**(row or {})),
        table(content),
        learner=rows_of(LEARNER, dropped=True) if learner else None,
        reference=rows_of(REFERENCE, dropped=False),
        selection=schemas.SelectionSpec(**(constants | selection)),
        seed=SEED,
        times_chosen=times_chosen,
    )


def kept_candidates(times_chosen: np.ndarray | None = None) -> Candidates:
    """Those that the learner embeds."""
    return Candidates(
        uid=UID[KEPT],
        dataset_index=INDEX[KEPT],
        learner=LEARNER.take(KEPT),
        reference=REFERENCE.take(KEPT),
        content=CONTENT[KEPT, :16],
        times_chosen=None if times_chosen is None else times_chosen[KEPT],
    )


def plain_spec(method: str = "joint", **changes: Any) -> SelectionSpec:
    return SelectionSpec(
        method=method,  # type: ignore[arg-type]
        criterion="learnability",
        b=B_SMALL,
        num_chunks=N,
        gain=0.4,
        weights=(1.0, 0.6),
        seed=SEED,
        seq=SEQ,
        **changes,
    )


TIMES_CHOSEN = np.arange(B) % 4
EVERY_WAY = [
    ("joint", {}),
    ("independent", {}),
    ("joint", {"sampling": "top_k"}),
    ("joint", {"loss": "softmax"}),
    ("independent", {"loss": "softmax", "probe_size": 5}),
    ("joint", {"loss": "softmax", "first_round": "diagonal"}),
    ("joint", {"repetition_cap": 3}),
    ("joint", {"loss": "softmax", "repetition_cap": 2, "max_cosine": 0.6}),
    ("joint", {"max_cosine": 0.6}),
    ("hard_negatives", {"max_cosine": 0.8}),
]


@pytest.mark.parametrize(("method", "constants"), EVERY_WAY)
def test_the_score_shard_explains_every_choice(method: str, constants: Changes) -> None:
    found = composed(row={"method": method}, times_chosen=TIMES_CHOSEN, **constants)
    scores = found.scores.to_pydict()
    kept, spec = kept_candidates(TIMES_CHOSEN), plain_spec(method, **constants)
    chosen, rounds, score, perturbed = plain.select(kept, spec)
    assert len(chosen) == B_SMALL
    assert scores["dataset_index"] == INDEX.tolist()
    assert scores["uid"] == [uid.tobytes() for uid in UID]
    assert set(scores["batch_seq"]) == {SEQ}
    assert scores["round"][DROPPED] == -1
    for name in ("loss_learner", "loss_reference", "score", "perturbed_score"):
        assert scores[name][DROPPED] is None
    assert [scores["round"][i] for i in KEPT] == rounds
    for name, values in (("score", score), ("perturbed_score", perturbed)):
        np.testing.assert_allclose([scores[name][i] for i in KEPT], values, rtol=2e-4, atol=2e-4, err_msg=name)
    if "repetition_cap" in constants:
        at_cap = [i for i in KEPT if TIMES_CHOSEN[i] >= constants["repetition_cap"]]
        assert {scores["perturbed_score"][i] for i in at_cap} == {-np.inf}
        counted = {source: count.capped for source, count in found.counts.items()}
        assert counted == {"even": sum(i % 2 == 0 for i in at_cap), "odd": sum(i % 2 for i in at_cap)}
    if method == "hard_negatives":
        assert found.scores.column("loss_reference").null_count == B, "the criterion is not read"
        return
    for name, model in (("loss_learner", LEARNER), ("loss_reference", REFERENCE)):
        np.testing.assert_allclose(
            [scores[name][i] for i in KEPT], loss_alone(model.take(KEPT), kept, spec), rtol=2e-4, atol=2e-4
        )


def loss_alone(model: DualEmbeddings, kept: Candidates, spec: SelectionSpec) -> list[float]:
    if spec.loss == "sigmoid":
        return plain.pair_losses(model).diagonal().tolist()
    logits_KK, probe = plain.softmax_logits(model), plain.probe(kept, spec)
    return [plain.softmax_loss(logits_KK, i, probe) for i in range(len(kept))]


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_the_batch_list_holds_the_chosen_in_slot_order_with_their_own_loss_within_the_batch(loss: str) -> None:
    batch = composed(loss=loss).batch.to_pydict()
    chosen, rounds, score, _ = plain.select(kept_candidates(), plain_spec(loss=loss))
    noise = {i: plain.gumbel(SEED, SEQ, SLOT_ROUND, UID[KEPT[i]].tobytes()) for i in chosen}
    slots = sorted(chosen, key=lambda i: -noise[i])
    members = KEPT[slots]
    assert batch["dataset_index"] == INDEX[members].tolist()
    assert batch["uid"] == [UID[i].tobytes() for i in members]
    assert batch["slot"] == list(range(B_SMALL))
    assert batch["chunk"] == [rounds[i] for i in slots]
    np.testing.assert_allclose(batch["score"], [score[i] for i in slots], rtol=2e-4, atol=2e-4)
    for name, model in (("loss_learner", LEARNER), ("loss_reference", REFERENCE)):
        own = own_losses(model.take(members), loss)
        np.testing.assert_allclose(batch[name], own, rtol=2e-4, atol=2e-4)


def own_losses(members: DualEmbeddings, loss: str) -> list[float]:
    """What each adds to the loss of the set (sigmoid), or its share of it (softmax)."""
    everyone = range(len(members))
    if loss == "softmax":
        logits_bb = plain.softmax_logits(members)
        return [plain.softmax_loss(logits_bb, i, list(everyone)) for i in everyone]
    P_bb = plain.pair_losses(members)
    return [P_bb.sum() - np.delete(np.delete(P_bb, i, 0), i, 1).sum() for i in everyone]


def test_products_in_bf16_choose_another_batch_and_publish_losses_in_fp32() -> None:
    exact, rounded = composed(), composed(precision="bf16")
    assert exact.scores.column("score") != rounded.scores.column("score")
    members = [int(np.flatnonzero(index == INDEX)[0]) for index in rounded.batch.column("dataset_index").to_pylist()]
    own = own_losses(LEARNER.take(np.array(members)), "sigmoid")
    np.testing.assert_allclose(rounded.batch.column("loss_learner").to_numpy(), own, rtol=2e-4, atol=2e-4)


def test_a_uniform_batch_keeps_near_copies_apart_by_the_reference_and_has_no_scores() -> None:
    found = composed(row={"method": "uniform"}, learner=False, max_cosine=0.6)
    members = [int(np.flatnonzero(index == INDEX)[0]) for index in found.batch.column("dataset_index").to_pylist()]
    image_bD = REFERENCE.image.numpy()[members]
    assert (image_bD @ image_bD.T)[~np.eye(B_SMALL, dtype=bool)].max() < 0.6
    assert found.batch.column("score").null_count == found.batch.column("loss_learner").null_count == B_SMALL
    assert found.batch.column("loss_reference").null_count == 0
    assert found.scores.column("loss_reference").null_count == found.scores.column("perturbed_score").null_count == B
    plainly = composed(row={"method": "uniform"}, learner=False).batch
    assert plainly.column("dataset_index") != found.batch.column("dataset_index")


def test_no_content_of_tower_a_is_twice_in_a_batch() -> None:
    best = composed(sampling="top_k").batch.column("sample_index").to_pylist()
    twin = CONTENT.copy()
    twin[best[0]] = twin[best[1]]
    again = composed(content=twin, sampling="top_k").batch.column("sample_index").to_pylist()
    assert len({twin[i].tobytes() for i in again}) == B_SMALL
    assert not {best[0], best[1]} <= set(again)


def test_a_batch_that_exclusions_leave_too_small_says_how_many_each_rule_took() -> None:
    with pytest.raises(BatchNotFilled) as raised:
        composed(times_chosen=np.where(np.arange(B) < 30, 3, 0), repetition_cap=3)
    assert raised.value.code == "too_few_candidates"
    # Row 7 is dropped; of the 30 others of rows 0 .. 29 it is one less at the cap.
    assert raised.value.counts == {"learner_not_finite": 1, "repetition_cap": 29}
    said = f"b = {B_SMALL} needs at least {B_SMALL} candidates; got 10 of {B}"
    assert said in str(raised.value)
    assert f"(seq {SEQ})" in str(raised.value)


def test_the_job_spec_offers_what_the_selection_takes() -> None:
    given = {name: get_args(hint) for name, hint in get_type_hints(schemas.SelectionSpec).items()}
    taken = {name: get_args(hint) for name, hint in get_type_hints(SelectionSpec, vars(spec_module)).items()}
    for name in ("sampling", "loss", "first_round", "precision"):
        assert given[name] == taken[name], name
    assert {method.value for method in schemas.Method} == set(taken["method"]) - {"gibbs", "greedy"}
    assert {criterion.value for criterion in schemas.Criterion} == set(taken["criterion"])


FULL = {"resolution": 32, "patch": 4, "flops_fraction": 1.0, "share": 0.5}
LOW = {"resolution": 32, "patch": 8, "flops_fraction": 0.3, "share": 0.25}
LOWEST = {"resolution": 16, "flops_fraction": 0.1, "share": 0.25}


def test_a_flexi_batch_has_the_same_rows_and_the_same_mix_in_every_slice() -> None:
    plainly, flexi = composed(), composed(variants=(FULL, LOW, LOWEST))
    assert sorted(flexi.batch.column("dataset_index").to_pylist()) == sorted(INDEX[members_of(plainly)])
    assert flexi.scores == plainly.scores, "who is chosen does not depend on how it is shown"
    variant = flexi.batch.column("variant").to_numpy()
    for parts in (1, 3):  # counts 6, 3, 3
        for piece in np.split(variant, parts):
            assert (np.bincount(piece) * parts).tolist() == [6, 3, 3]
    noise = [plain.gumbel(SEED, SEQ, VARIANT_ROUND, uid) for uid in flexi.batch.column("uid").to_pylist()]
    assert variant[np.argsort(noise)[::-1]].tolist() == [0] * 6 + [1] * 3 + [2] * 3
    order = np.random.default_rng(0).permutation(B)
    again = compose(
        row_of(),
        table().take(pa.array(order)),
        learner=reordered(rows_of(LEARNER, dropped=True), order),
        reference=reordered(rows_of(REFERENCE, dropped=False), order),
        selection=schemas.SelectionSpec(b=B_SMALL, N=N, variants=(FULL, LOW, LOWEST)),
        seed=SEED,
    )
    for name in ("uid", "variant", "dataset_index"):
        assert again.batch.column(name) == flexi.batch.column(name), name


def test_own_losses_stand_beside_their_rows_in_a_flexi_batch() -> None:
    flexi = composed(variants=(FULL, LOW, LOWEST))
    own = own_losses(LEARNER.take(members_of(flexi)), "sigmoid")
    np.testing.assert_allclose(flexi.batch.column("loss_learner").to_numpy(), own, rtol=2e-4, atol=2e-4)


def test_one_variant_changes_no_byte_of_a_list_and_two_change_its_digest() -> None:
    def written(found: Composed) -> bytes:
        return write_batch_list([found.batch], fingerprint=b"f" * 32)

    assert written(composed()) == written(composed(variants=(FULL | {"share": 1.0},)))
    digests = {
        digest_of_rows(found.batch, fingerprint=b"f" * 32)
        for found in (composed(), composed(variants=(FULL, LOW | {"share": 0.5})))
    }
    assert len(digests) == 2


def members_of(found: Composed) -> np.ndarray:
    return np.array(
        [int(np.flatnonzero(index == INDEX)[0]) for index in found.batch.column("dataset_index").to_pylist()]
    )


def reordered(rows: RowEmbeddings, order: np.ndarray) -> RowEmbeddings:
    return RowEmbeddings(rows.image[order], rows.text[order], rows.logit_scale, rows.logit_bias)


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
    row, selection = row_of(criterion="hard_learner"), schemas.SelectionSpec(b=B_SMALL, N=N)
    with pytest.raises(LearnerNotFinite, match=rf"b = {B_SMALL} .* got {B_SMALL - 1}"):
        compose(row, table(), learner=broken, reference=None, selection=selection, seed=SEED)
