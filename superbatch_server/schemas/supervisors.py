"""Supervisors as users see them."""

from __future__ import annotations

from pydantic import Field

from superbatch_server.schemas.base import Body


class Supervisor(Body):
    """A process that claims jobs and runs their drivers."""

    id: str
    host: str
    pid: int = Field(description="Process on that host.")
    runner: str = Field(description="Where its drivers run: local or ray_jobs.")
    max_running: int = Field(description="Drivers that it runs at the same time.")
    num_running: int = Field(description="Drivers that it ran when it was last seen.")
    started_at: str
    seen_at: str = Field(description="Its last heartbeat, by the database's clock.")
    age_s: float = Field(description="Seconds since then.")
    is_live: bool = Field(description="Whether it was seen lately; without a live one no job starts.")


class SupervisorList(Body):
    """Supervisors, the last seen first; one that vanished stays for a day, one that was stopped does not."""

    supervisors: list[Supervisor]
