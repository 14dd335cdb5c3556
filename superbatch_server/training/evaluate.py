"""How good a dual encoder is: retrieval in both directions and zero-shot classification, on held-out pairs.

N pairs, C concepts, D width. Row i of image_ND and row i of text_ND are one pair.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from superbatch.tiny.weights import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from superbatch_server.encoders.microbatch import encode_padded
from superbatch_server.encoders.protocol import DualEncoder
from superbatch_server.encoders.registry import load_encoder
from superbatch_server.training.held_out import HeldOut, read_held_out

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recall:
    """Share of queries whose own caption is among the best k, per direction."""

    image_to_text: float
    text_to_image: float

    @property
    def mean(self) -> float:
        """Return the mean of both directions, the number that tables call R@k."""
        return (self.image_to_text + self.text_to_image) / 2


def retrieval_recall(image_ND: Floats, text_ND: Floats, captions: Sequence[str], *, k: int = 5) -> Recall:
    """Return recall at k of finding a picture's caption among all captions, and a caption's picture among all pictures.

    Row i of the scores is picture i, column j is caption j. Query i is a hit when fewer than k items *with another
    caption* score at least as high as the best item with the same caption: any copy of the caption counts as right,
    copies do not push each other out, and ties and NaN count against the model (one with equal outputs scores 0).

    Example, k = 1, captions ("cat", "dog", "cat"), scores of picture 0 (0.2, 0.5, 0.9): the best "cat" has 0.9, no
    "dog" reaches it: a hit. With (0.2, 0.5, 0.5) the dog ties with it: a miss.
    """
    scores_NN = image_ND @ text_ND.T
    _, caption_N = np.unique(np.asarray(captions), return_inverse=True)
    same_NN = caption_N[:, None] == caption_N[None, :]
    return Recall(_hit_fraction(scores_NN, same_NN, k), _hit_fraction(scores_NN.T, same_NN, k))


def zero_shot_accuracy(image_ND: Floats, concept_CD: Floats, label_N: npt.NDArray[np.int64]) -> float:
    """Return the share of pictures whose own concept scores above every other one; a tie is a miss.

    Row i of the scores is picture i, column c the caption of concept c; `label_N` holds each picture's own column.
    """
    scores_NC = image_ND @ concept_CD.T
    own_NC = label_N[:, None] == np.arange(scores_NC.shape[1])
    return _hit_fraction(scores_NC, own_NC, 1)


def _hit_fraction(scores_QM: Floats, right_QM: npt.NDArray[np.bool_], k: int) -> float:
    """Share of the Q queries with fewer than k wrong items scoring at least as high as the best right one."""
    best_Q1 = np.where(right_QM, scores_QM, -np.inf).max(axis=1, keepdims=True)
    wrong_above_Q = (~right_QM & ~(scores_QM < best_Q1)).sum(axis=1)  # NaN is above everything
    return float((wrong_above_Q < k).mean())


@dataclass(frozen=True)
class Report:
    """What the evaluation found; every accuracy is in [0, 1], None where no picture shows a concept."""

    recall_at_5: float
    image_to_text_recall_at_5: float
    text_to_image_recall_at_5: float
    zero_shot_accuracy: float | None
    num_pairs: int
    num_concepts: int
    num_concept_pictures: int
    bad_rows: dict[str, int]


def evaluate(encoder: DualEncoder, held_out: HeldOut, *, micro_batch: int = 128) -> Report:
    """Return recall at 5 over all pairs, and zero-shot accuracy over the pictures that show a concept."""
    pairs = encode_padded(encoder, held_out.rows, micro_batch=micro_batch)
    picture = _white_picture()  # the towers are independent: any picture completes the pair
    concept_rows = [encoder.prepare(picture, concept.encode()) for concept in held_out.concepts]
    concept_CD = encode_padded(encoder, concept_rows, micro_batch=micro_batch).text_BD
    shown = [i for i, concept in enumerate(held_out.concept) if concept is not None]
    label_N = np.asarray([held_out.concept[i] for i in shown], dtype=np.int64)
    recall = retrieval_recall(pairs.image_BD, pairs.text_BD, held_out.captions, k=5)
    return Report(
        recall_at_5=recall.mean,
        image_to_text_recall_at_5=recall.image_to_text,
        text_to_image_recall_at_5=recall.text_to_image,
        zero_shot_accuracy=zero_shot_accuracy(pairs.image_BD[shown], concept_CD, label_N) if shown else None,
        num_pairs=len(pairs),
        num_concepts=len(held_out.concepts),
        num_concept_pictures=len(shown),
        bad_rows=held_out.bad_rows,
    )


def main(argv: list[str] | None = None) -> None:
    """Evaluate a model folder on a data folder and print the report."""
    parser = argparse.ArgumentParser(prog="python -m superbatch_server.training.evaluate")
    parser.add_argument("--model", type=Path, required=True, help="folder with weights, config and tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="folder with test-*.tar and concepts.json")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    args = parser.parse_args(argv)
    files = {"weights": WEIGHTS_FILE, "config": CONFIG_FILE, "tokenizer": TOKENIZER_FILE}
    paths = {role: args.model / name for role, name in files.items()}
    encoder = load_encoder("tiny", paths, threads=args.threads)
    report = dataclasses.asdict(evaluate(encoder, read_held_out(args.data, encoder)))
    print(json.dumps(report) if args.json else "\n".join(f"{name:28} {value}" for name, value in report.items()))


def _white_picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (1, 1), "white").save(data, format="PNG")
    return data.getvalue()


if __name__ == "__main__":
    main()
