"""What the supervisor asks of whoever runs its drivers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

IsLost = Callable[[str, int], bool]
"""Claims that attempt (job, token) has ended or was taken over: its driver, if there is one still, has no business."""


@dataclass(frozen=True)
class Assignment:
    """An attempt that was claimed and wants a driver."""

    job_id: str
    token: int
    secret: str = field(repr=False)
    service_url: str
    log_path: Path

    @property
    def name(self) -> str:
        """<job>:<token>."""
        return f"{self.job_id}:{self.token}"

    def variables(self) -> dict[str, str]:
        """Return the environment that tells a driver which attempt it is."""
        return {
            "SUPERBATCH_SERVICE_URL": self.service_url,
            "SUPERBATCH_JOB": self.job_id,
            "SUPERBATCH_TOKEN": str(self.token),
            "SUPERBATCH_ATTEMPT_SECRET": self.secret,
        }


class Run(Protocol):
    """One attempt's driver and everything that it started.

    Law: `outcome` and `terminate` return at once. Once `outcome` has said how the driver ended it stays so. After
    `destroy` there is an outcome, and of what the driver started nothing goes on that the runner can still reach.
    """

    pid: int | None
    """Process on this machine; None when it runs elsewhere."""

    def outcome(self) -> str | None:
        """Return in a few words how the driver ended, None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask the driver to stop."""
        ...

    def destroy(self) -> None:
        """End whatever is left, by force, within seconds."""
        ...


class Runner(Protocol):
    """Starts drivers. Law: of one assignment at most one driver ever runs, however often a request was repeated."""

    name: str

    def is_ready(self) -> bool:
        """Claim that a driver could be started now: while it is false no job is claimed, and none counts a crash."""
        ...

    def start(self, assignment: Assignment) -> Run:
        """Start a driver; raises OSError when that is impossible."""
        ...

    def sweep(self, is_lost: IsLost) -> None:
        """End what drivers of lost attempts left behind, once they have had the time to end by themselves."""
        ...
