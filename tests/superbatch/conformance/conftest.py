"""A sample job of 12 batches of 24 rows, made once: faults break its files and mend them."""

from __future__ import annotations

import pytest

from superbatch.conformance.sample_job import SampleJob, make_job


@pytest.fixture(scope="session")
def sample_job(tmp_path_factory: pytest.TempPathFactory) -> SampleJob:
    return make_job(tmp_path_factory.mktemp("sample-job"), num_batches=12, b=24)
