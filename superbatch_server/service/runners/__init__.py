"""Where drivers run. The supervisor knows two protocols; which runner it is given is a setting.

local     a process of this machine, with a Ray of its own             local.py
ray_jobs  a submission to a Ray cluster, by its Jobs API over HTTP     ray_jobs.py, ray_api.py
"""

from __future__ import annotations

from superbatch_server.service.runners.protocol import Assignment, IsLost, Run, Runner
from superbatch_server.service.settings import Settings

__all__ = ["Assignment", "IsLost", "Run", "Runner", "open_runner"]


def open_runner(settings: Settings) -> Runner:
    """Return the runner that the settings name.

    Raises: ValueError when the file of its token cannot be read.
    """
    if settings.runner == "ray_jobs":
        from superbatch_server.service.runners.ray_jobs import open_ray_jobs

        return open_ray_jobs(settings)
    from superbatch_server.service.runners.local import LocalRunner

    return LocalRunner(settings.driver_command, grace_s=settings.stop_grace_s)
