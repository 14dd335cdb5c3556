"""docs/large_super_batches.md: its programs run and choose the same, its numbers are those of the code."""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import sys
from pathlib import Path

from superbatch.selection.pairs.block_threads import CANDIDATE_BLOCK

PAGE = (Path(__file__).parents[3] / "docs" / "large_super_batches.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def run(program: str, folder: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment, GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
    os.chdir(folder)
    with Path(f"printed.{environment.get('RANK', '')}").open("w") as sys.stdout:
        exec(compile(program, "docs/large_super_batches.md", "exec"), {})


def test_both_programs_choose_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["superbatch.selection.sharded"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    in_files, in_parts = PROGRAMS
    network = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for started in ([(in_files, {})], [(in_parts, {**network, "RANK": rank}) for rank in ("0", "1")]):
        processes = [context.Process(target=run, args=(program, tmp_path, more)) for program, more in started]
        for process in processes:
            process.start()
        for process in processes:
            process.join(100)
            assert process.exitcode == 0
    printed = (tmp_path / "printed.").read_text()
    assert re.fullmatch(r"\[[ \d]+\]\n", printed)
    assert (tmp_path / "printed.0").read_text() == printed
    assert (tmp_path / "printed.1").read_text() == ""


def test_the_block_of_bit_equal_parts_is_that_of_the_engine() -> None:
    assert f"multiple of {CANDIDATE_BLOCK:,} candidates" in " ".join(PAGE.split())
