"""Held-out pairs on disk: `test-*.tar` (key.png or .jpg or .webp, key.txt) and `concepts.json` beside them.

concepts.json: {"classes": [caption, ...], "class_of_key": {key: class index}}; keys are unique over the tars.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from superbatch.formats.errors import InvalidInput
from superbatch.formats.tar import iter_samples
from superbatch.tiny.picture import BadRow, read_caption
from superbatch_server.encoders.protocol import DualEncoder, PreparedRow

PICTURE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
CONCEPTS_FILE = "concepts.json"


@dataclass(frozen=True)
class HeldOut:
    """The good rows in order of the tars; `concept` of a row is None where it shows none of `concepts`."""

    rows: list[PreparedRow]
    captions: list[str]
    concept: list[int | None]
    concepts: list[str]
    bad_rows: dict[str, int]


def read_held_out(folder: Path, encoder: DualEncoder) -> HeldOut:
    """Return the pairs of `test-*.tar`, prepared for `encoder`; rows that cannot be used are counted by reason.

    Raises: InvalidInput when there is no tar or no usable row, or when concepts.json is missing or malformed.
    """
    concepts, class_of_key = _read_concepts(folder / CONCEPTS_FILE)
    held_out = HeldOut([], [], [], concepts, {})
    bad_rows: Counter[str] = Counter()
    for key, picture, caption in _stored_pairs(folder):
        try:
            held_out.rows.append(encoder.prepare(picture, caption))
        except BadRow as error:
            bad_rows[error.reason] += 1
            continue
        held_out.captions.append(read_caption(caption))
        held_out.concept.append(class_of_key.get(key))
    if not held_out.rows:
        raise InvalidInput(f"test tars must hold at least one usable pair; got {dict(bad_rows)} ({folder}).")
    held_out.bad_rows.update(bad_rows)
    return held_out


def _stored_pairs(folder: Path) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    tars = sorted(folder.glob("test-*.tar"))
    if not tars:
        raise InvalidInput(f"the data folder must hold test-*.tar; got none ({folder}).")
    for path in tars:
        with path.open("rb") as stream:
            for sample in iter_samples(stream, read=True, where=str(path)):
                suffix = next((suffix for suffix in PICTURE_SUFFIXES if suffix in sample.data), "")
                yield sample.key, sample.data.get(suffix), sample.data.get("txt")


def _read_concepts(path: Path) -> tuple[list[str], dict[str, int]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        concepts = [str(concept) for concept in document["classes"]]
        class_of_key = {str(key): int(index) for key, index in document["class_of_key"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{CONCEPTS_FILE} must hold classes and class_of_key; got {error!r} ({path}).") from error
    if not all(0 <= index < len(concepts) for index in class_of_key.values()):
        raise InvalidInput(f"class_of_key must index the {len(concepts)} classes ({path}).")
    return concepts, class_of_key
