"""The sample job of the WebDataset tests."""

from tests.superbatch.webdataset.conftest import export, job, open_log, read_rows, running, service

__all__ = ["export", "job", "open_log", "read_rows", "running", "service"]
