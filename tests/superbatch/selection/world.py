"""Real processes that make selections together: started once, asked many times.

    with World(4) as world:
        answers = world.ask(work, [parts for each process])

Each process calls work(group, *its arguments) and answers with what comes back, or with what was raised.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

ANSWER_WITHIN_S = 60


class Silence(Exception):
    """A process answered nothing: it died."""


class World:
    """Processes of one default group, and in each of them a smaller group of the first 2."""

    def __init__(self, num_processes: int, *, timeout_s: float = 30) -> None:
        # Torch is imported once, in the server; its children are copies of it.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "superbatch.selection.sharded"])
        self._folder = tempfile.TemporaryDirectory()
        store = Path(self._folder.name) / "store"
        self._asked, self._processes = [], []
        for rank in range(num_processes):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, num_processes, store, timeout_s), daemon=True)
            process.start()
            there.close()
            self._asked.append(here)
            self._processes.append(process)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._asked:
            connection.close()
        for process in self._processes:
            process.join(5)
            process.kill()
        self._folder.cleanup()

    def ask(self, work: Callable[..., Any], arguments: Sequence[Sequence[Any]], *, group_of: int | None = None) -> list:
        """Return the answer of each process, an exception where one was raised, `Silence` where the process died.

        `group_of` = 2 asks the first two only, with their own group; None asks all, with the default group.
        """
        asked = self._asked[: len(arguments)]
        for connection, own in zip(asked, arguments, strict=True):
            connection.send_bytes(pickle.dumps((work, own, group_of)))
        return [_answer(connection) for connection in asked]


def _answer(connection: Connection) -> Any:
    assert connection.poll(ANSWER_WITHIN_S), "a process neither answered nor died: it hangs"
    try:
        return pickle.loads(connection.recv_bytes())
    except EOFError:
        return Silence()


def _serve(connection: Connection, rank: int, num_processes: int, store: Path, timeout_s: float) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=num_processes,
        timeout=timedelta(seconds=timeout_s),
    )
    groups = {None: None, 1: dist.new_group([0]), 2: dist.new_group([0, 1])}
    while True:
        try:
            work, arguments, group_of = pickle.loads(connection.recv_bytes())
        except EOFError:
            break
        try:
            answer = work(groups[group_of], *arguments)
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = error
        connection.send_bytes(pickle.dumps(answer))
    dist.destroy_process_group()
