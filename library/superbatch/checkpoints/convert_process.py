"""The process of `superbatch convert`: gives up what it does not need, then reads one file. Its answer is JSON.

python -m superbatch.checkpoints.convert_process '{"source": ..., "out": ..., ...}'
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import resource
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from superbatch.formats.errors import InvalidInput

_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000
_PR_SET_NO_NEW_PRIVS = 38
_FIRST_SAFE_TORCH = (2, 6)
_MEMORY = re.compile(r"allocat|out of memory|cannot allocate", re.IGNORECASE)
_GLOBAL = re.compile(r"(?:GLOBAL |global )([\w.]+)")


def main(argument: str) -> int:
    """Read the request, convert, print the answer."""
    asked = json.loads(argument)
    is_offline = give_up_rights(cpu_s=asked["cpu_s"], source_bytes=Path(asked["source"]).stat().st_size)
    try:
        answer = _converted(asked) | {"is_offline": int(is_offline)}
    except InvalidInput as error:
        answer = {"refused": str(error)}
    except UnpicklingError as error:
        answer = {"refused": _unpickling(str(error))}
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _MEMORY.search(str(error)):
            answer = {"refused": _unreadable(error)}
        else:
            answer = {"refused": "a file must be read within its memory; it needs more. Allow more (--memory-bytes)."}
    except Exception as error:  # whatever a damaged file makes torch raise is the file's fault
        answer = {"refused": _unreadable(error)}
    print(json.dumps(answer))
    return 0


def _converted(asked: dict[str, Any]) -> dict[str, object]:
    import torch
    from safetensors.torch import save_file

    from superbatch.checkpoints.state_dict import notes, select_weights

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _FIRST_SAFE_TORCH:
        raise InvalidInput(
            f"torch must be 2.6 or newer, whose weights_only=True can be relied on (CVE-2025-32434); got "
            f"{torch.__version__}. Convert in another environment."
        )
    torch.set_num_threads(1)
    _limit_memory(asked["memory_bytes"], source_bytes=Path(asked["source"]).stat().st_size)
    selected = select_weights(asked["source"], key=asked["key"], prefix=asked["prefix"])
    save_file(selected.tensors, asked["out"], metadata=notes(asked["job"]))
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in selected.tensors.values()})
    return {
        "num_tensors": len(selected.tensors),
        "dtypes": [{"name": name} for name in dtypes],
        "left_out": [{"name": name, "why": why} for name, why in selected.left_out.items()],
    }


def give_up_rights(*, cpu_s: int, source_bytes: int) -> bool:
    """Bound time, files and cores, and leave the network; return whether that was possible."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    written = 2 * source_bytes + (64 << 20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return any(libc.unshare(flags) == 0 for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET))
    return False


def _limit_memory(memory_bytes: int | None, *, source_bytes: int) -> None:
    """Bound the address space: what this process has now, torch included, plus what the file may take."""
    allowed = memory_bytes if memory_bytes is not None else 3 * source_bytes + (1 << 30)
    with contextlib.suppress(OSError, ValueError):  # no /proc: macOS keeps no such bound either
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + allowed
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _unpickling(message: str) -> str:
    names = sorted(set(_GLOBAL.findall(message)))
    got = f"a pickle that names {', '.join(names)}" if names else "a pickle that torch.load(weights_only=True) refuses"
    return (
        f"a checkpoint must hold tensors and plain values only; got {got}. Nothing of it was run. "
        "Save the state dict alone: torch.save(model.state_dict(), FILE)."
    )


def _unreadable(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0][:200]
    return f"a file must be a whole checkpoint; got {type(error).__name__}: {first}. Save or copy it again."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
