"""LogBatch.slice: each rank's rows, without a copy, and never a batch that does not divide."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest

from superbatch.formats.errors import InvalidInput
from tests.superbatch.log.conftest import OpenLog
from tests.superbatch.log.fake_service import FakeService


@pytest.mark.parametrize(("world_size", "accumulation"), list(itertools.product((1, 2, 3, 4), (1, 2))))
def test_the_slices_of_a_batch_are_the_batch(
    service: FakeService, open_log: OpenLog, world_size: int, accumulation: int
) -> None:
    service.b = 24
    service.publish_all(2)
    for batch in open_log():
        shares = [batch.slice(rank, world_size=world_size) for rank in range(world_size)]
        assert pa.Table.from_batches(shares).equals(pa.Table.from_batches([batch.rows]))
        for rank, share in enumerate(shares):
            steps = [
                batch.slice(rank, world_size=world_size, accumulation=accumulation, micro=micro)
                for micro in range(accumulation)
            ]
            assert {len(step) for step in steps} == {24 // (world_size * accumulation)}
            assert pa.Table.from_batches(steps).equals(pa.Table.from_batches([share]))
            assert share.column("uid").buffers()[1].address == batch.rows.column("uid").buffers()[1].address


def test_a_world_size_that_does_not_divide_is_refused_with_the_numbers(service: FakeService, open_log: OpenLog) -> None:
    service.publish_all(1)
    batch = next(open_log())
    with pytest.raises(InvalidInput, match=r"b = 4, 3 \* 1 = 3, remainder 1"):
        batch.slice(0, world_size=3)
    with pytest.raises(InvalidInput, match=r"rank must be in \[0, 2\)"):
        batch.slice(2, world_size=2)


def test_a_world_size_that_does_not_divide_is_refused_when_the_log_is_opened(
    service: FakeService, open_log: OpenLog
) -> None:
    service.b = 128
    with pytest.raises(InvalidInput, match=r"b = 128, 3 \* 1 = 3, remainder 2. Change the world size"):
        open_log(world_size=3)
    with pytest.raises(InvalidInput, match=r"b = 128, 4 \* 64 = 256"):
        open_log(world_size=4, accumulation=64)
    log = open_log(world_size=4, accumulation=2)
    log.register("trainer")
    assert (service.reports[-1]["world_size"], service.reports[-1]["accumulation"]) == (4, 2)
