from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from superbatch_server.training.evaluate import Recall, evaluate, main, retrieval_recall, zero_shot_accuracy
from superbatch_server.training.held_out import read_held_out
from tests.encoders.made import an_encoder
from tests.training.made import write_test_split

ONE_HOT_NN = np.eye(4, dtype=np.float32)


def recall_of(scores: list[list[float]], captions: list[str], k: int) -> Recall:
    """Recall for a typed matrix: rows are pictures, columns are captions."""
    scores_NN = np.array(scores, dtype=np.float32)
    return retrieval_recall(scores_NN, np.eye(len(scores), dtype=np.float32), captions, k=k)


def test_three_pairs_by_hand() -> None:
    scores = [
        [0.9, 0.5, 0.1],  # picture 0: its own caption first
        [0.8, 0.4, 0.3],  # picture 1: its own second
        [0.7, 0.6, 0.2],  # picture 2: its own last
    ]
    # Down the columns, caption 0 finds its picture first, caption 1 last (0.4 below 0.5 and 0.6), caption 2 second.
    assert recall_of(scores, ["a", "b", "c"], 1) == Recall(image_to_text=1 / 3, text_to_image=1 / 3)
    assert recall_of(scores, ["a", "b", "c"], 2) == Recall(image_to_text=2 / 3, text_to_image=2 / 3)
    assert recall_of(scores, ["a", "b", "c"], 3) == Recall(image_to_text=1.0, text_to_image=1.0)


def test_the_mean_is_of_both_directions() -> None:
    assert Recall(image_to_text=0.5, text_to_image=0.25).mean == 0.375


def test_any_copy_of_the_caption_is_right() -> None:
    # Pictures 0 and 2 are cats; each scores the other's caption highest.
    scores = [[0.1, 0.5, 0.9], [0.2, 0.8, 0.2], [0.9, 0.5, 0.1]]
    assert recall_of(scores, ["cat", "dog", "cat"], 1) == Recall(image_to_text=1.0, text_to_image=1.0)
    assert recall_of(scores, ["cat", "dog", "lion"], 1).image_to_text == 1 / 3


def test_copies_of_a_right_caption_do_not_push_each_other_out() -> None:
    scores = [[0.9, 0.8, 0.8, 0.1]] * 4
    assert recall_of(scores, ["cat", "cat", "cat", "dog"], 1).image_to_text == 3 / 4


def test_ties_count_against_the_model() -> None:
    assert recall_of([[0.5, 0.5, 0.9]] * 3, ["cat", "dog", "cat"], 1).image_to_text == 2 / 3
    assert recall_of([[0.5, 0.5], [0.5, 0.5]], ["cat", "dog"], 1) == Recall(image_to_text=0.0, text_to_image=0.0)
    constant = np.ones((20, 3), dtype=np.float32)
    assert retrieval_recall(constant, constant, [str(i) for i in range(20)], k=5).mean == 0.0


def test_a_perfect_model_has_perfect_recall() -> None:
    assert retrieval_recall(ONE_HOT_NN, ONE_HOT_NN, list("abcd"), k=1).mean == 1.0


def test_embeddings_that_are_not_finite_are_misses() -> None:
    broken = ONE_HOT_NN.copy()
    broken[0] = np.nan
    assert retrieval_recall(broken, ONE_HOT_NN, list("abcd"), k=1) == Recall(image_to_text=0.75, text_to_image=0.0)
    assert retrieval_recall(broken, ONE_HOT_NN, list("abcd"), k=2) == Recall(image_to_text=0.75, text_to_image=0.75)


def test_zero_shot_by_hand() -> None:
    scores_NC = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.5, 0.5]], dtype=np.float32)
    label_N = np.array([0, 1, 1, 0])  # right, wrong, right, a tie
    assert zero_shot_accuracy(scores_NC, np.eye(2, dtype=np.float32), label_N) == 0.5


def test_an_evaluation_of_tars(tmp_path: Path) -> None:
    write_test_split(tmp_path / "data")
    encoder = an_encoder(tmp_path / "model")
    report = evaluate(encoder, read_held_out(tmp_path / "data", encoder), micro_batch=4)
    assert (report.num_pairs, report.num_concepts, report.num_concept_pictures) == (9, 3, 4)
    assert report.bad_rows == {"empty_caption": 1}
    assert report.recall_at_5 == (report.image_to_text_recall_at_5 + report.text_to_image_recall_at_5) / 2
    assert report.zero_shot_accuracy is not None
    assert 0 <= report.zero_shot_accuracy <= 1


def test_without_pictures_of_a_concept_there_is_no_zero_shot_accuracy(tmp_path: Path) -> None:
    write_test_split(tmp_path / "data", class_of_key={})
    encoder = an_encoder(tmp_path / "model")
    assert evaluate(encoder, read_held_out(tmp_path / "data", encoder)).zero_shot_accuracy is None


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    write_test_split(tmp_path / "data")
    an_encoder(tmp_path / "model")
    main(["--model", str(tmp_path / "model"), "--data", str(tmp_path / "data"), *(["--json"] if as_json else [])])
    printed = capsys.readouterr().out
    if as_json:
        assert json.loads(printed)["num_pairs"] == 9
    else:
        assert "zero_shot_accuracy" in printed
