"""A sample of WebDataset tars, embedded with the learner and the reference of two model folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from superbatch.formats.errors import InvalidInput
from superbatch.formats.tar import count_samples, iter_samples
from superbatch.formats.uid import uid_of_bytes
from superbatch.selection import DualEmbeddings
from superbatch.tiny.picture import BadRow
from superbatch.tiny.weights import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from superbatch_server.encoders.microbatch import encode_padded
from superbatch_server.encoders.protocol import DualEncoder, PreparedRow
from superbatch_server.encoders.registry import load_encoder
from superbatch_server.preview.embedded import MODELS, EmbeddedSample, checked_sample
from superbatch_server.training.held_out import PICTURE_SUFFIXES

ROLE_FILES = {"weights": WEIGHTS_FILE, "config": CONFIG_FILE, "tokenizer": TOKENIZER_FILE}
MICRO_BATCH = 128

Progress = Callable[[float, str], None]


class StoredPair(NamedTuple):
    """One sample of a tar as stored; None where a member is missing."""

    picture: bytes | None
    caption: bytes | None


def embed_tars(
    data: Sequence[Path], folders: dict[str, Path], *, num_rows: int, threads: int, on_progress: Progress
) -> EmbeddedSample:
    """Return at most `num_rows` random pairs of the tars under `data`, embedded; always the same ones.

    Pairs that cannot be decoded are left out and counted, as the service's index would quarantine them.
    Args:
        data: tars, or folders whose *.tar are meant.
        folders: model folder (config.json, tokenizer.json, model.safetensors) of `learner` and `reference`, or of one.
        num_rows: pairs drawn; broken ones among them are not replaced.
        threads: threads of one forward.
        on_progress: called with the share done, in [0, 1], and what is being done.
    Raises: InvalidInput for no tar, no usable pair or a folder that makes no model; NotATar, CorruptFile for a tar.
    Cost: one pass over the headers of every tar, one over the tars of the drawn pairs, one forward per pair and model.
    """
    encoders = {name: _load(folder, threads=threads) for name, folder in folders.items()}
    tars = find_tars(data)
    drawn = _drawn_positions(tars, num_rows)
    num_drawn = sum(map(len, drawn.values()))
    bad_rows: Counter[str] = Counter()
    uids: list[bytes] = []
    prepared: dict[str, list[PreparedRow]] = {name: [] for name in encoders}
    for num_read, pair in enumerate(_stored_pairs(drawn)):
        on_progress(0.5 * num_read / num_drawn, "reading pairs")
        try:
            rows = {name: encoder.prepare(pair.picture, pair.caption) for name, encoder in encoders.items()}
        except BadRow as error:
            bad_rows[f"bad row: {error.reason}"] += 1
            continue
        uids.append(uid_of_bytes(pair.picture or b"", pair.caption or b""))
        for name, row in rows.items():
            prepared[name].append(row)
    if not uids:
        raise InvalidInput(f"a sample needs usable pairs; got {dict(bad_rows)} ({', '.join(map(str, data))}).")
    towers = {name: _encoded(encoders[name], prepared[name], name, on_progress) for name in encoders}
    uid_M = np.frombuffer(b"".join(uids), dtype=np.uint8).reshape(-1, 16)
    models = {name: towers.get(name) for name in MODELS}
    source = f"{len(tars)} tar{'' if len(tars) == 1 else 's'} of {tars[0].resolve().parent.name}"
    row_M = np.arange(len(uid_M), dtype=np.int64)
    return checked_sample(EmbeddedSample(source, uid_M, row_M, **models, num_left_out=dict(bad_rows)))


def find_tars(data: Sequence[Path]) -> list[Path]:
    """Return the tars that are named, and those of the folders that are named, sorted within a folder."""
    tars: list[Path] = []
    for path in data:
        found = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not found or not all(tar.is_file() for tar in found):
            raise InvalidInput(f"--data must name tars, or folders with *.tar; got {path}, which has none.")
        tars += found
    return tars


def _drawn_positions(tars: Sequence[Path], num_rows: int) -> dict[Path, set[int]]:
    """Return which samples of which tar are drawn: all pairs with the same chance, whatever tar they lie in."""
    counts = []
    for tar in tars:
        with tar.open("rb") as stream:
            counts.append(count_samples(stream, where=str(tar)))
    stops = np.cumsum(counts)
    total = int(stops[-1])
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(0, spawn_key=(total,))))
    drawn = np.sort(rng.permutation(total)[:num_rows])
    of_tar = np.searchsorted(stops, drawn, side="right")
    positions = drawn - (stops - counts)[of_tar]
    return {tar: set(positions[of_tar == place].tolist()) for place, tar in enumerate(tars) if (of_tar == place).any()}


def _stored_pairs(drawn: dict[Path, set[int]]) -> Iterator[StoredPair]:
    for tar, positions in drawn.items():
        with tar.open("rb") as stream:
            for sample in iter_samples(stream, read=True, suffixes=(*PICTURE_SUFFIXES, "txt"), where=str(tar)):
                if sample.sample_index in positions:
                    suffix = next((suffix for suffix in PICTURE_SUFFIXES if suffix in sample.data), "")
                    yield StoredPair(sample.data.get(suffix), sample.data.get("txt"))


def _load(folder: Path, *, threads: int) -> DualEncoder:
    files = {role: folder / name for role, name in ROLE_FILES.items()}
    if missing := [path.name for path in files.values() if not path.is_file()]:
        raise InvalidInput(f"a model folder must hold {', '.join(ROLE_FILES.values())}; {folder} lacks {missing}.")
    return load_encoder("tiny", files, threads=threads)


def _encoded(encoder: DualEncoder, rows: Sequence[PreparedRow], name: str, on_progress: Progress) -> DualEmbeddings:
    share = 0.5 if name == MODELS[0] else 0.75
    parts = []
    for start in range(0, len(rows), MICRO_BATCH):
        on_progress(share + 0.25 * start / len(rows), f"encoding, {name}")
        parts.append(encode_padded(encoder, rows[start : start + MICRO_BATCH], micro_batch=MICRO_BATCH))
    image_MD, text_MD = (np.concatenate([getattr(part, tower) for part in parts]) for tower in ("image_BD", "text_BD"))
    return DualEmbeddings(
        torch.from_numpy(image_MD), torch.from_numpy(text_MD), encoder.logit_scale, encoder.logit_bias
    )
