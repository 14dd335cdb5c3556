"""What every worker process of an attempt is given, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WorkerSettings:
    """Plain values only, because Ray copies them to the workers.

    roots: root name to URL. store_url: where objects are written. writer: "<job>-<token>", part of their names.
    scratch: folder of this attempt on the worker's machine. threads, dtype, micro_batch: from the numerics profile.
    """

    roots: dict[str, str]
    store_url: str
    writer: str
    scratch: str
    threads: int
    dtype: str
    micro_batch: int

    @property
    def model_folder(self) -> Path:
        """Where local copies of model files are kept."""
        return Path(self.scratch) / "models"
