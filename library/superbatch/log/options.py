"""What a log takes from whatever source it is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TypedDict

from superbatch.formats.manifest import Revoked
from superbatch.log.withdrawals import OnRevoked


class LogOptions(TypedDict, total=False):
    """What a log takes from any source; see BatchLog."""

    history_id: str | None
    state: Mapping[str, object] | None
    cache_dir: str | os.PathLike[str] | None
    cache_bytes: int
    lists_ahead: int
    lists_ahead_bytes: int
    wait_s: float
    idle_limit_s: float | None
    num_attempts: int
    on_revoked: OnRevoked
    skipped: Iterable[Revoked] | None
    world_size: int | None
    accumulation: int
