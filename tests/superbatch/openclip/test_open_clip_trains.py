"""open_clip's own trainer on two ranks: every joint batch whole and in order through us, none by itself."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from superbatch.conformance.checks import Check, check_case
from superbatch.conformance.faults import Fault
from superbatch.conformance.http_server import RunningService
from superbatch.conformance.records import Ended, Leg, StartRecord, read_steps
from superbatch.conformance.sample_job import JOB, SampleJob
from superbatch.conformance.service import SampleService
from superbatch.webdataset.composed_batches import ComposedBatches
from superbatch.webdataset.export import ReadRows
from superbatch.webdataset.layout import TarLayout, tar_name, tar_pattern
from superbatch.webdataset.tar_server import ServedTars, TarServer, curl_url, path_secret
from tests.superbatch.openclip.open_clip_runs import PYTHON, Run, train
from tests.superbatch.webdataset.conftest import TOKEN, Export, OpenLog

NUM_TESTS = 7
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not PYTHON.exists(),
        reason=f"{NUM_TESTS} tests run open_clip itself; to have it: make openclip-env",
    ),
]


@pytest.fixture
def tars(export: Export, tmp_path: Path) -> Path:
    return export(tmp_path / "tars", world_size=2)


@pytest.fixture
def live_url(open_log: OpenLog, read_rows: ReadRows, job: SampleJob) -> Iterator[str]:
    """The address of a server that sends each tar when its batch is composed."""
    served = ServedTars(ComposedBatches(open_log), TarLayout(job.b, 2), [read_rows])
    with TarServer(served, secret=path_secret(TOKEN, JOB)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield curl_url(server.address(range(48)), delay_s=1)
        server.shutdown()
        thread.join()
        served.batches.close()


def record(run: Run, job: SampleJob, *, accumulation: int = 1, first_seq: int = 0) -> StartRecord:
    """What the kit makes of the trace of a run."""
    leg = Leg(2, 2, accumulation)
    steps, problems = read_steps(run.trace, leg)
    ended = Ended((run.status, run.status), output=run.output)
    return StartRecord(leg, first_seq, None, steps, job.state_at(len(job.batches)), ended, problems)


def findings(run: Run, job: SampleJob, **sizes: int) -> list[str]:
    """What the kit finds in a run over the whole job; open_clip saves no state of the log, so that is given."""
    found = check_case(job, [record(run, job, **sizes)], fault=Fault.NONE, skipped=())
    return [str(finding) for finding in found if finding.check is not Check.STATE]


def num_whole(run: Run, job: SampleJob) -> tuple[int, int]:
    """(joint batches whose rows were trained together in one step of the two ranks, steps)."""
    steps = [Counter(uid for step in ranks for uid in step.uids) for ranks in zip(*record(run, job).steps, strict=True)]
    wanted = [Counter(batch) for batch in job.batches]
    return sum(step in wanted for step in steps), len(steps)


def test_tars_offline(tars: Path, job: SampleJob, tmp_path: Path) -> None:
    run = train(
        tmp_path / "run",
        f"{tars}/{tar_pattern(range(48))}",
        batch_size=6,
        num_samples=24 * 12,
        arguments=("--workers", "2", "--epochs", "1"),
    )
    assert run.status == 0, run.output[-4000:]
    assert findings(run, job) == []
    assert num_whole(run, job) == (24, 24)


def test_open_clip_by_itself_mixes_every_batch(tars: Path, job: SampleJob, tmp_path: Path) -> None:
    run = train(
        tmp_path / "run",
        f"{tars}/{tar_pattern(range(48))}",
        batch_size=6,
        num_samples=24 * 12,
        options=("--as-is",),
        arguments=("--workers", "2", "--epochs", "1"),
    )
    assert run.status == 0, run.output[-4000:]
    assert "shuffle buffer" in findings(run, job)[0]
    assert num_whole(run, job) == (0, 24)


def test_live_tars_with_reports(
    live_url: str, running: RunningService, service: SampleService, job: SampleJob, tmp_path: Path
) -> None:
    run = train(
        tmp_path / "run",
        live_url,
        batch_size=6,
        num_samples=24 * 12,
        options=("--report", "clip"),
        arguments=("--workers", "3", "--epochs", "1"),
        environment={"SUPERBATCH_URL": running.url, "SUPERBATCH_JOB": JOB, "SUPERBATCH_TOKEN": TOKEN},
    )
    assert run.status == 0, run.output[-4000:]
    assert findings(run, job) == []
    assert num_whole(run, job) == (24, 24)
    assert service.registry.reports["clip"]["trained_seq"] == 24
    assert service.registry.refusals == []


def test_epochs_and_a_resumed_run_with_other_workers(tars: Path, job: SampleJob, tmp_path: Path) -> None:
    urls = f"{tars}/{tar_pattern(range(48))}"
    sizes = {"batch_size": 6, "num_samples": 8 * 12}
    first = train(tmp_path / "run", urls, **sizes, arguments=("--workers", "2", "--epochs", "2"))
    assert first.status == 0, first.output[-4000:]
    assert num_whole(first, job) == (16, 16)
    again = train(
        tmp_path / "run",
        urls,
        **sizes,
        arguments=("--workers", "0", "--epochs", "3", "--resume", "latest"),
    )
    assert again.status == 0, again.output[-4000:]
    assert findings(again, job) == [], "both starts wrote one trace: 24 steps in order"
    assert num_whole(again, job) == (24, 24)


def test_accumulation(export: Export, job: SampleJob, tmp_path: Path) -> None:
    folder = export(tmp_path / "tars", world_size=2, accumulation=2)
    run = train(
        tmp_path / "run",
        f"{folder}/{tar_pattern(range(96))}",
        batch_size=3,
        num_samples=24 * 12,
        arguments=("--workers", "3", "--epochs", "1", "--accum-freq", "2"),
    )
    assert run.status == 0, run.output[-4000:]
    assert findings(run, job, accumulation=2) == []


@pytest.mark.parametrize(
    "break_tar", [lambda path: path.write_bytes(path.read_bytes()[:2048]), lambda path: path.unlink()]
)
def test_a_broken_tar_ends_the_run_at_its_batch(
    tars: Path, job: SampleJob, tmp_path: Path, break_tar: Callable[[Path], object]
) -> None:
    break_tar(tars / tar_name(2 * 10))
    run = train(
        tmp_path / "run",
        f"{tars}/{tar_pattern(range(48))}",
        batch_size=6,
        num_samples=24 * 12,
        arguments=("--workers", "2", "--epochs", "1"),
    )
    assert run.status != 0
    assert tar_name(20) in run.output
    steps = record(run, job).steps
    assert all(step.uids == job.batches[step.seq][6 * rank : 6 * rank + 6] for rank in (0, 1) for step in steps[rank])
    assert max(len(each) for each in steps) <= 10
