"""The training set that open_clip gets: in order, whole, and its own again afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from superbatch.conformance import Trace
from superbatch.conformance.records import Leg, read_steps
from superbatch.conformance.sample_job import SampleJob
from superbatch.formats.errors import CorruptFile, InvalidInput, UnreadableExample
from superbatch.formats.slices import slot_range
from superbatch.openclip.training_set import NEEDED, TrainingSet
from superbatch.webdataset.layout import tar_name, tar_pattern
from tests.superbatch.openclip.fake_open_clip import Arguments, fake_data_module
from tests.superbatch.webdataset.conftest import Export

pytestmark = pytest.mark.filterwarnings("ignore")  # webdataset's


@pytest.fixture
def folder(export: Export, tmp_path: Path) -> Path:
    return export(tmp_path / "tars", world_size=2)


def train(
    data: ModuleType, args: Arguments, trace: Path, *, keep_order: bool = True, epochs: Sequence[int] = (0,)
) -> None:
    """Train on both ranks, one after the other, as open_clip's loop does."""
    for rank in range(args.world_size):
        own = replace(args, rank=rank)
        training_set = TrainingSet(data, keep_order=keep_order, trace=Trace(rank=rank, folder=trace))
        found = training_set(own, lambda image: image, True, epoch=epochs[0])
        for epoch in epochs:
            found.shared_epoch.value = epoch
            for pictures, captions in found.dataloader:
                assert len(pictures) == len(captions) == args.batch_size


def joint_batches(trace: Path, job: SampleJob) -> tuple[int, int]:
    """(steps whose rows on all ranks are those of a batch, steps that are in addition in order, slot by slot)."""
    per_rank, problems = read_steps(trace, Leg(2, 0, 1))
    assert problems == ()
    whole = exact = 0
    for position, steps in enumerate(zip(*per_rank, strict=True)):
        trained = [uid for step in steps for uid in step.uids]
        whole += any(sorted(trained) == sorted(batch) for batch in job.batches)
        exact += {step.seq for step in steps} == {position} and tuple(trained) == job.batches[position]
    return whole, exact


def test_every_joint_batch_is_whole_and_in_order(folder: Path, job: SampleJob, tmp_path: Path) -> None:
    args = Arguments(f"{folder}/{tar_pattern(range(48))}")
    train(fake_data_module(), args, tmp_path / "trace")
    assert joint_batches(tmp_path / "trace", job) == (24, 24)


def test_left_as_it_is_no_joint_batch_survives(folder: Path, job: SampleJob, tmp_path: Path) -> None:
    args = Arguments(f"{folder}/{tar_pattern(range(48))}")
    train(fake_data_module(), args, tmp_path / "trace", keep_order=False)
    assert joint_batches(tmp_path / "trace", job) == (0, 0)


def test_epochs_read_on_and_a_resumed_one_begins_where_it_was_saved(
    folder: Path, job: SampleJob, tmp_path: Path
) -> None:
    args = Arguments(f"{folder}/{tar_pattern(range(48))}", epochs=3, train_num_samples=8 * 12)
    train(fake_data_module(), args, tmp_path / "trace", epochs=[0, 1, 2])
    assert joint_batches(tmp_path / "trace", job) == (24, 24)

    train(fake_data_module(), args, tmp_path / "resumed", epochs=[2])
    per_rank, _ = read_steps(tmp_path / "resumed", Leg(2, 0, 1))
    assert [[step.seq for step in steps] for steps in per_rank] == [list(range(16, 24))] * 2
    slots = slot_range(job.b, 1, world_size=2)
    assert per_rank[1][0].uids == job.batches[16][slots.start : slots.stop]


def test_a_short_tar_ends_the_run_and_moves_no_row(folder: Path, tmp_path: Path) -> None:
    content = (folder / tar_name(6)).read_bytes()
    (folder / tar_name(6)).write_bytes(content[: content.index(b"000000000003-000001-")])  # between two rows: no error
    args = Arguments(f"{folder}/{tar_pattern(range(48))}")
    with pytest.raises(CorruptFile, match="got 1 "):
        train(fake_data_module(), args, tmp_path / "trace")
    per_rank, _ = read_steps(tmp_path / "trace", Leg(1, 0, 1))
    assert len(per_rank[0]) == 3


def test_a_picture_that_cannot_be_read_ends_the_run(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / tar_name(6)).read_bytes())
    content[512:600] = bytes(88)
    (folder / tar_name(6)).write_bytes(content)
    args = Arguments(f"{folder}/{tar_pattern(range(48))}")
    with pytest.raises(UnreadableExample, match="identify image"):
        train(fake_data_module(), args, tmp_path / "trace")


def test_a_lost_tar_and_a_command_that_fails_end_the_run(folder: Path, tmp_path: Path) -> None:
    (folder / tar_name(10)).unlink()
    args = Arguments(f"{folder}/{tar_pattern(range(48))}")
    with pytest.raises(UnreadableExample, match=r"00000010\.tar"):
        train(fake_data_module(), args, tmp_path / "trace")
    piped = Arguments(f"pipe:cat {folder}/{tar_pattern(range(48))}")
    with pytest.raises(UnreadableExample, match=r"empty file|exit 1"):
        train(fake_data_module(), piped, tmp_path / "trace-2")


def test_a_command_that_fails_after_a_whole_tar_ends_the_run(folder: Path, tmp_path: Path) -> None:
    args = Arguments(f"pipe:sh -c 'cat $0; exit 9' {folder}/{tar_pattern(range(48))}")
    with pytest.raises(UnreadableExample, match="exit 9"):
        train(fake_data_module(), args, tmp_path / "trace")


def test_open_clips_names_are_its_own_again_afterwards(folder: Path) -> None:
    data = fake_data_module()
    before = {name: getattr(data, name) for name in NEEDED}
    training_set = TrainingSet(data, keep_order=True, trace=Trace())
    training_set(Arguments(f"{folder}/{tar_pattern(range(48))}"), str, True)
    with pytest.raises(InvalidInput):
        training_set(Arguments(f"{folder}/{tar_pattern(range(47))}"), str, True)
    assert {name: getattr(data, name) for name in NEEDED} == before


def test_validation_sets_go_to_open_clip_unchanged(folder: Path) -> None:
    data = fake_data_module()
    (folder / tar_name(0)).write_bytes(b"")  # open_clip's own validation set steps over it
    found = TrainingSet(data, keep_order=True, trace=Trace())(
        Arguments(f"{folder}/{tar_pattern(range(4))}"), lambda image: image, False
    )
    assert sum(len(captions) for _, captions in found.dataloader) == 18


def test_another_open_clip_is_refused() -> None:
    data = fake_data_module()
    del data._SAMPLE_SHUFFLE_SIZE
    with pytest.raises(InvalidInput, match=r"3\.3; this one has no _SAMPLE_SHUFFLE_SIZE"):
        TrainingSet(data, keep_order=True, trace=Trace())


def test_rows_of_an_epoch_must_be_known(folder: Path) -> None:
    args = Arguments(f"{folder}/{tar_pattern(range(48))}", train_num_samples=None)
    with pytest.raises(InvalidInput, match="--train-num-samples"):
        TrainingSet(fake_data_module(), keep_order=True, trace=Trace())(args, str, True)
