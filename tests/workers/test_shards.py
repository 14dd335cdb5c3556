"""One shard through a worker: what its files hold, and how what is wrong with it is told."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from superbatch.formats.digests import weak_shard_fingerprint
from superbatch.formats.jpeg import MAX_SCANS
from superbatch.formats.score_shard import read_score_shard
from superbatch.formats.tar import iter_samples
from superbatch.formats.uid import uid_of_bytes
from superbatch_server.encoders.numerics import NumericsProfile
from superbatch_server.schemas.attempts import CacheEntry
from superbatch_server.storage.roots import open_roots
from superbatch_server.workers.cache_keys import embedding_cache_key, index_cache_key
from superbatch_server.workers.embed import NOT_FINITE, read_embeddings
from superbatch_server.workers.index import IndexSpec, IndexTable, raw_rows, read_index
from superbatch_server.workers.index_pass import ShardFailed
from superbatch_server.workers.model_files import EncoderFiles, model_files
from superbatch_server.workers.row_reader import RowRef
from superbatch_server.workers.row_scorer import RowEmbeddings, parts
from superbatch_server.workers.shard_task import EmbedSpec, ShardReceipt, ShardTask, ShardWorker
from superbatch_server.workers.tries import MAX_TRIES, Tries
from superbatch_server.workers.worker_settings import WorkerSettings

from .fakes import FakeService, attempt, spec_of
from .world import ROWS_PER_SHARD, World, shard_members, tar_of

SPEC = IndexSpec()


def task_of(world: World, shard: int, **changes: object) -> ShardTask:
    entry = world.shards()[shard]
    assert entry.fingerprint is not None
    return ShardTask(
        shard_id=shard,
        root="data",
        key=entry.key,
        fingerprint=entry.fingerprint,
        sha256=entry.sha256,
        rows=entry.rows,
        wanted_index_key=index_cache_key(entry.fingerprint, SPEC),
        wanted_embedding_key=embedding_cache_key(entry.fingerprint, SPEC, encoder="ab" * 32, numerics="cd" * 32),
    ).model_copy(update=changes)


def worker_of(world: World, *, files: EncoderFiles | None = None, micro_batch: int = 4) -> ShardWorker:
    embed = EmbedSpec(files or model_files(world.model("reference")), "ab" * 32, "cd" * 32)
    return ShardWorker(world.settings(micro_batch=micro_batch), embed=embed, spec=SPEC)


def stored(world: World, entry: CacheEntry | None) -> bytes:
    assert entry is not None
    data = (world.folder / "store" / entry.object_key).read_bytes()
    assert sha256(data).hexdigest() == entry.sha256
    return data


def test_the_index_says_where_rows_lie_and_which_are_broken(world: World) -> None:
    found = []
    for shard in range(5):
        rows = read_index(stored(world, worker_of(world).run(task_of(world, shard)).index))
        assert rows.num_rows == ROWS_PER_SHARD
        members = shard_members(shard)
        for row, (picture, caption) in enumerate(zip(members[::2], members[1::2], strict=True)):
            assert rows.column("uid")[row].as_py() == uid_of_bytes(picture[1], caption[1])
            assert rows.column("a_sha256")[row].as_py() == sha256(picture[1]).digest()
        verdicts = rows.column("verdict").to_pylist()
        found += [(shard, row, verdict) for row, verdict in enumerate(verdicts) if verdict != "ok"]
        assert rows.column("width")[1].as_py() == rows.column("height")[1].as_py() == 8
    assert found == [
        (0, 3, "undecodable_picture"),
        (1, 0, "empty_caption"),
        (2, 22, "missing_picture"),
        (3, 7, "picture_too_large"),
    ]


def test_a_jpeg_of_many_scans_is_quarantined_and_the_shard_goes_on() -> None:
    with io.BytesIO() as data:
        Image.new("L", (16, 16)).save(data, "JPEG", progressive=True)
        picture = data.getvalue()
    scan = picture[picture.rfind(b"\xff\xda") : -2]
    shard = tar_of(
        [
            ("0.jpg", picture[:-2] + scan * MAX_SCANS + picture[-2:]),
            ("0.txt", b"a"),
            ("1.jpg", picture),
            ("1.txt", b"b"),
        ]
    )
    index = IndexTable(SPEC)
    samples = iter_samples(io.BytesIO(shard), read=True, suffixes=SPEC.suffixes, max_member_bytes=1 << 20, where="here")
    for row in raw_rows(samples, SPEC):
        index.add(row)
    assert (len(index), index.quarantined) == (2, {"picture_too_large": 1})


@given(num_rows=st.integers(1, 300), micro_batch=st.integers(1, 40), num_workers=st.integers(1, 9))
def test_a_super_batch_is_cut_between_micro_batches_only(num_rows: int, micro_batch: int, num_workers: int) -> None:
    rows = [RowRef("data", "a.tar", i, 1, i, 1, b"") for i in range(num_rows)]
    cut = list(parts(rows, micro_batch=micro_batch, num_workers=num_workers))
    assert [row for part in cut for row in part] == rows
    assert all(len(part) % micro_batch == 0 for part in cut[:-1])
    assert all(len(part) > 0 for part in cut)


def test_every_part_of_a_cache_key_counts() -> None:
    other = IndexSpec(max_pixels=SPEC.max_pixels + 1)
    indexes = [index_cache_key("aa" * 32, SPEC), index_cache_key("bb" * 32, SPEC), index_cache_key("aa" * 32, other)]
    wanted = [("aa", SPEC, "cc", "dd"), ("bb", SPEC, "cc", "dd"), ("aa", other, "cc", "dd")]
    wanted += [("aa", SPEC, "ee", "dd"), ("aa", SPEC, "cc", "ee"), ("aa", SPEC, "dd", "cc")]
    embeddings = [
        embedding_cache_key(shard * 32, spec, encoder=encoder * 32, numerics=numerics * 32)
        for shard, spec, encoder, numerics in wanted
    ]
    assert len({*indexes, *embeddings}) == 9


def test_every_field_of_the_numerics_profile_changes_its_digest() -> None:
    profile = NumericsProfile("2.0", "cpu AVX2", "float32", threads_per_worker=1, composer_threads=2, micro_batch=3)
    changes: dict[str, str | int] = {"torch_version": "2.1", "device": "cpu AVX512", "dtype": "bfloat16"}
    changes |= {"threads_per_worker": 9, "composer_threads": 9, "micro_batch": 9}
    assert set(changes) == {field.name for field in fields(NumericsProfile)}
    changed = {replace(profile, **{name: value}).digest() for name, value in changes.items()}  # type: ignore[arg-type]
    assert len({profile.digest(), *changed}) == 7


def test_rows_that_the_reference_cannot_embed_are_quarantined_and_never_drawn(world: World) -> None:
    world.checkpoint("reference-poisoned", seed=1, poison="row")
    (world.folder / "models" / "reference" / "model.safetensors").unlink()
    (world.folder / "models" / "reference-poisoned" / "model.safetensors").rename(
        world.folder / "models" / "reference" / "model.safetensors"
    )
    service = FakeService(spec_of(num_batches=12))
    attempt(world, service)
    assert service.pool is not None
    assert service.pool.quarantined[NOT_FINITE] == 1
    assert service.pool.eligible == 110
    poisoned = 4 * ROWS_PER_SHARD + 11
    keys = [key for commit in service.commits for key in commit.score_keys]
    drawn = {
        index
        for key in keys
        for index in read_score_shard(world.folder / "store" / key).rows.column("dataset_index").to_pylist()
    }
    assert len(drawn) == 110
    assert poisoned not in drawn
    bits = [index in drawn for index in range(5 * ROWS_PER_SHARD)]
    assert service.pool.eligible_digest == plain_eligible_digest(world.fingerprint(), bits)


def plain_eligible_digest(fingerprint: str, bits: list[bool]) -> str:
    """design.md section 1, in words: one bit per dataset_index, least significant first."""
    packed = sum(bit << i for i, bit in enumerate(bits)).to_bytes(-(-len(bits) // 8), "little")
    return sha256(b"superbatch-eligible-v1\0" + bytes.fromhex(fingerprint) + packed).hexdigest()


def test_embeddings_do_not_depend_on_what_else_is_asked_for(world: World) -> None:
    worker = worker_of(world)
    both = worker.run(task_of(world, 0))
    alone = worker_of(world).run(task_of(world, 0, has_index=True))
    assert alone.index is None
    assert both.embedding is not None
    assert alone.embedding is not None
    assert both.embedding.sha256 == alone.embedding.sha256
    found = read_embeddings(stored(world, both.embedding))
    assert found.image.shape == found.text.shape == (ROWS_PER_SHARD, 16)
    assert found.verdict[3] == "undecodable_picture"
    assert not found.image[3].any()
    norms = np.linalg.norm(found.image[[0, 1, 2]].astype(np.float32), axis=1)
    assert np.abs(norms - 1).max() < 2e-3


def test_a_broken_row_moves_no_other_row_to_another_micro_batch(world: World) -> None:
    """Row 3 of shard 0 is broken: with it whole, every other row keeps its bits."""
    broken = read_embeddings(stored(world, worker_of(world).run(task_of(world, 0)).embedding))
    members = shard_members(0)
    members[6] = ("003.png", members[0][1])
    data = tar_of(members)
    (world.folder / "data" / "00.tar").unlink()
    (world.folder / "data" / "00.tar").write_bytes(data)
    whole = read_embeddings(stored(world, worker_of(world).run(task_of(world, 0)).embedding))
    same = [row for row in range(ROWS_PER_SHARD) if row != 3]
    assert np.array_equal(broken.image[same], whole.image[same])
    assert whole.verdict[3] == "ok"


def test_a_row_without_a_finite_embedding_is_quarantined(world: World) -> None:
    weights = world.checkpoint("row", seed=3, poison="row")
    files = model_files(world.model("reference"), weights=weights)
    receipt = worker_of(world, files=files).run(task_of(world, 4))
    assert receipt.embedding is not None
    assert receipt.embedding.quarantined == {NOT_FINITE: 1}
    assert read_embeddings(stored(world, receipt.embedding)).verdict[11] == NOT_FINITE


def damaged(world: World, data: bytes) -> None:
    path = world.folder / "data" / "00.tar"
    path.unlink()  # a link to the shared one
    path.write_bytes(data)


def weak_task(world: World, *, rows: int = ROWS_PER_SHARD) -> ShardTask:
    stat = open_roots(world.roots)["data"].stat("00.tar")
    print_ = weak_shard_fingerprint("data", "00.tar", etag=None, size=stat.size, mtime_ns=stat.mtime_ns or 0).hex()
    return task_of(world, 0, fingerprint=print_, sha256=None, rows=rows)


def change(world: World) -> ShardTask:
    task = task_of(world, 0)
    damaged(world, tar_of(shard_members(1)))
    return task


def change_weak(world: World) -> ShardTask:
    task = weak_task(world)
    damaged(world, tar_of(shard_members(1)))
    return task


def other_rows(world: World) -> ShardTask:
    return weak_task(world, rows=22)


def no_tar(world: World) -> ShardTask:
    damaged(world, b"\x1f\x8b" + b"x" * 2000)
    return weak_task(world)


def cut(world: World) -> ShardTask:
    damaged(world, tar_of(shard_members(0))[:9000])
    return weak_task(world)


def gone(world: World) -> ShardTask:
    task = task_of(world, 0)
    (world.folder / "data" / "00.tar").unlink()
    return task


@pytest.mark.parametrize(
    ("damage", "code", "may_retry"),
    [
        (change, "shard_changed", False),
        (change_weak, "shard_changed", False),
        (other_rows, "rows_mismatch", False),
        (no_tar, "not_a_tar", True),
        (cut, "corrupt_file", True),
        (gone, "object_missing", True),
    ],
)
def test_a_broken_shard_gives_an_error_receipt_with_its_name(
    world: World, damage: Callable[[World], ShardTask], code: str, may_retry: bool
) -> None:
    receipt = worker_of(world).run(damage(world))
    assert (receipt.error_code, receipt.may_retry) == (code, may_retry)
    assert receipt.error is not None
    assert "00.tar" in receipt.error


class Flaky:
    """An executor whose shard 2 fails `failures` times."""

    def __init__(self, inner_tasks: ShardWorker, *, failures: int) -> None:
        self.worker, self.left, self.tries = inner_tasks, failures, 0

    def run_shards(self, tasks: Sequence[ShardTask]) -> Iterator[ShardReceipt]:
        for task in tasks:
            self.tries += task.shard_id == 2
            if task.shard_id == 2 and self.left:
                self.left -= 1
                yield ShardReceipt(shard_id=2, error_code="corrupt_file", error="a tar must be whole")
            else:
                yield self.worker.run(task)

    def embed_rows(self, files: EncoderFiles, rows: Sequence[RowRef], *, micro_batch: int) -> RowEmbeddings:
        raise AssertionError("nothing is scored here")

    def close(self) -> None:
        pass


def flaky(failures: int) -> tuple[list[Flaky], Callable[..., Flaky]]:
    made: list[Flaky] = []

    def make(settings: WorkerSettings, *, embed: EmbedSpec | None, spec: IndexSpec, num_workers: int) -> Flaky:
        made.append(Flaky(ShardWorker(settings, embed=embed, spec=spec), failures=failures))
        return made[0]

    return made, make


EASY = {"learner": None, "selection": {"criterion": "easy_reference"}, "num_batches": 1}


def test_a_shard_that_fails_twice_is_tried_a_third_time(world: World) -> None:
    made, make = flaky(2)
    service = FakeService(spec_of(**EASY))
    assert attempt(world, service, make_executor=make) == "published"
    assert made[0].tries == 3
    assert [event.kind for event in service.events] == ["shard_retried", "shard_retried"]


def test_a_shard_that_fails_three_times_fails_the_job_with_its_name(world: World) -> None:
    made, make = flaky(3)
    service = FakeService(spec_of(**EASY))
    with pytest.raises(ShardFailed, match=r"02\.tar.*after 3 tries") as raised:
        attempt(world, service, make_executor=make)
    assert raised.value.error_code == "corrupt_file"
    assert made[0].tries == 3


def test_a_shard_that_kills_its_workers_is_refused(tmp_path: Path, world: World) -> None:
    task = task_of(world, 0)
    for _ in range(MAX_TRIES):
        counted = Tries(tmp_path).counted(task)
        assert counted.__enter__() is None  # and the worker dies before it leaves
    with Tries(tmp_path).counted(task) as refused:
        assert refused is not None
        assert refused.error_code == "worker_died"
        assert not refused.may_retry
    with Tries(tmp_path).counted(task) as refused:
        assert refused is None
