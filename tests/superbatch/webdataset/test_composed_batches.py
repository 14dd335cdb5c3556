"""Batches by their seq: any order, blocked until composed, and the same after the log had to be read again."""

from __future__ import annotations

import random
import threading

import pytest

from superbatch.conformance.faults import ServerFaults
from superbatch.conformance.http_server import RunningService
from superbatch.conformance.sample_job import SampleJob
from superbatch.conformance.service import SampleService
from superbatch.formats.errors import LogError
from superbatch.log import LogBatch
from superbatch.webdataset.composed_batches import ComposedBatches, NoSuchBatch
from tests.superbatch.webdataset.conftest import OpenLog


def uids(batch: LogBatch | None) -> list[bytes]:
    assert batch is not None
    return list(batch.rows.column("uid").to_pylist())


def test_any_order_gives_the_batches_of_the_log(open_log: OpenLog, job: SampleJob) -> None:
    batches = ComposedBatches(open_log, num_kept=4, num_ahead=2)
    seqs = [0, 23, 22, 1, *random.Random(1).sample(range(24), 12)]
    found = {seq: uids(batches.get(seq, timeout_s=30)) for seq in seqs}
    batches.close()

    assert found == {seq: list(job.batches[seq]) for seq in seqs}


def test_many_threads_get_what_they_asked_for(open_log: OpenLog, job: SampleJob) -> None:
    batches = ComposedBatches(open_log, num_kept=3, num_ahead=1)
    wrong: list[int] = []

    def reads(first: int) -> None:
        wrong.extend(
            seq for seq in range(first, 24, 4) if uids(batches.get(seq, timeout_s=60)) != list(job.batches[seq])
        )

    threads = [threading.Thread(target=reads, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batches.close()
    assert wrong == []


def test_a_batch_after_the_end_of_a_complete_job_is_none_of_it(open_log: OpenLog) -> None:
    batches = ComposedBatches(open_log)
    with pytest.raises(NoSuchBatch, match="24 batches"):
        batches.get(24, timeout_s=60)
    assert batches.get(23, timeout_s=60) is not None
    batches.close()


def test_what_is_not_composed_in_time_is_none_yet(job: SampleJob, open_log: OpenLog, service: SampleService) -> None:
    service.faults = ServerFaults(restart_at_seq=job.late_seq)  # nothing from there on, until it was restarted
    batches = ComposedBatches(open_log)
    last_seq = max(each.stop_seq for each in job.segments if each.stop_seq <= job.late_seq) - 1

    assert uids(batches.get(last_seq, timeout_s=60)) == list(job.batches[last_seq])
    assert batches.get(last_seq + 1, timeout_s=0.0) is None
    assert uids(batches.get(last_seq + 1, timeout_s=60)) == list(job.batches[last_seq + 1]), "after the restart"
    batches.close()


def test_a_log_that_cannot_go_on_says_so(job: SampleJob, open_log: OpenLog, service: SampleService) -> None:
    service.faults = ServerFaults(revoked_seq=5)
    batches = ComposedBatches(open_log)

    assert uids(batches.get(4, timeout_s=60)) == list(job.batches[4])
    with pytest.raises(LogError, match="revoked"):
        batches.get(5, timeout_s=60)
    batches.close()


def test_what_lies_before_the_begin_is_refused(job: SampleJob, open_log: OpenLog) -> None:
    batches = ComposedBatches(lambda state: open_log(state or job.state_at(10)))
    with pytest.raises(NoSuchBatch, match="began with batch 10"):
        batches.get(9, timeout_s=0)
    assert uids(batches.get(10, timeout_s=60)) == list(job.batches[10])
    batches.close()


def test_closing_ends_the_thread_while_it_waits(open_log: OpenLog, running: RunningService) -> None:
    batches = ComposedBatches(open_log, num_ahead=1)
    batches.get(0, timeout_s=60)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "superbatch-tars"]
