"""A test split of ten pairs in two tars, one of them without a caption."""

from __future__ import annotations

import json
from pathlib import Path

from tests.encoders.made import a_pair
from tests.superbatch.formats.sample_batches import a_tar

CONCEPTS = ["red heart", "blue house", "green arrow"]
CLASS_OF_KEY = {"000": 0, "001": 1, "005": 2, "006": 0, "003": 1}
EMPTY_KEY = "003"


def write_test_split(folder: Path, *, class_of_key: dict[str, int] = CLASS_OF_KEY) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        files = []
        for row in range(5 * shard, 5 * shard + 5):
            picture, caption = a_pair(row)
            key = f"{row:03d}"
            files += [(f"{key}.png", picture), (f"{key}.txt", b" " if key == EMPTY_KEY else caption)]
        (folder / f"test-{shard}.tar").write_bytes(a_tar(files))
    (folder / "pool-0.tar").write_bytes(b"not read")
    (folder / "concepts.json").write_text(json.dumps({"classes": CONCEPTS, "class_of_key": class_of_key}))
