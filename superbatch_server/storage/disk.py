"""What a file system does to those who write: folders that must be made durable, and disks that are full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space on the disk, in the user's quota, or below the largest file that the process may write."""


def is_full(error: BaseException) -> bool:
    """Claim that an error means: there is no room, and the same write may succeed once there is."""
    return isinstance(error, OSError) and error.errno in FULL


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
