"""The page of the service's own health: room, catalog, supervisors, queue, versions."""

from __future__ import annotations

from dataclasses import dataclass

from superbatch_server.schemas.storage import Storage
from superbatch_server.service.context import Deployment
from superbatch_server.service.watching.storage_report import read_storage
from superbatch_server.service.watching.supervision import Supervision

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True, slots=True)
class HealthPage:
    """The numbers of `GET /v1/storage`, and the supervisors one by one."""

    storage: Storage
    supervision: Supervision

    @property
    def findings(self) -> list[str]:
        """What a person must look at now; empty where all is well."""
        found = [self.supervision.warning] if self.supervision.warning else []
        for place in self.storage.places:
            if place.level in ("low", "full"):
                found.append(f"The disk of {place.name} is {place.level}: {size(place.free_bytes)} are free.")
        uploads = self.storage.uploads
        if uploads.announced_bytes > 0.9 * uploads.quota_bytes:
            found.append(f"Uploads take {uploads.announced_bytes / uploads.quota_bytes:.0%} of their quota.")
        return found


def read_health_page(deployment: Deployment) -> HealthPage:
    """Return the page."""
    return HealthPage(*read_storage(deployment))


def size(num_bytes: int | None) -> str:
    """Return 512 B, 1.5 KiB, 12 GiB; a dash for what is not known."""
    if num_bytes is None:
        return "–"
    value, unit = float(num_bytes), 0
    while value >= 1024 and unit + 1 < len(UNITS):
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if value >= 10 or unit == 0 else f"{value:.1f} {UNITS[unit]}"
