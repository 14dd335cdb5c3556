"""How often a shard was begun: one that kills its worker would otherwise be given to the next one for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from superbatch_server.workers.shard_task import ShardReceipt, ShardTask

MAX_TRIES = 3


class Tries:
    """Counts in a folder of the attempt's scratch: a byte when a task begins, all removed when it ends in any way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def counted(self, task: ShardTask) -> Iterator[ShardReceipt | None]:
        """Yield None, or the receipt of a shard during which a worker died MAX_TRIES times."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / str(task.shard_id)
        with path.open("ab") as file:
            file.write(b".")
            begun = file.tell()
        yield _refused(task) if begun > MAX_TRIES else None
        path.unlink(missing_ok=True)


def _refused(task: ShardTask) -> ShardReceipt:
    return ShardReceipt(
        shard_id=task.shard_id,
        error_code="worker_died",
        error=f"a worker must survive its shard; it died {MAX_TRIES} times over root {task.root}, key {task.key!r}. "
        "Read the driver's log; give the workers more memory, or take the shard out of the data set",
        may_retry=False,
    )
