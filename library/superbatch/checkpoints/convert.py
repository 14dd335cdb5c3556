"""Converting a trainer's file into a learner's weights in a process of its own: limited, without a network, supervised.

A pickle runs code when it is read. torch.load(weights_only=True) refuses all but tensors and plain values; should that
ever fail, the process that reads has no credentials in its environment, no network where the system allows that to be
taken away, and bounds on memory, time and what it may write. Reads no torch itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from superbatch.formats.canonical import JsonValue
from superbatch.formats.errors import CorruptFile, InvalidInput
from superbatch.formats.json_fields import JsonFields, as_fields
from superbatch.log.checkpoints import check_safetensors, place_checkpoint

PROCESS = "superbatch.checkpoints.convert_process"
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class ConversionRefused(InvalidInput):
    """A file that is no checkpoint, or that needs more than it may have."""

    code = "conversion_refused"


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading one file may take.

    memory_bytes: address space beyond what torch itself takes; None for three times the file and a gibibyte.
    cpu_s: seconds of processor time. wall_s: seconds in all.
    """

    memory_bytes: int | None = None
    cpu_s: int = 600
    wall_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class Converted:
    """A safetensors file that was made: digest, tensors, bytes, dtypes, and what was left out and why."""

    sha256: str
    num_tensors: int
    num_bytes: int
    dtypes: tuple[str, ...]
    left_out: dict[str, str]
    is_offline: bool


def convert_checkpoint(
    source: Path,
    out: Path,
    *,
    key: str | None = None,
    prefix: str = "",
    job: str | None = None,
    limits: Limits = Limits(),
) -> Converted:
    """Write the learner of `source` to `out` as safetensors; the same source gives the same bytes.

    Args:
        source: a file of torch.save (open_clip's `epoch_N.pt`, a state dict, a dict that holds one), or safetensors.
        out: the file to make; it appears whole or not at all, and never over another.
        key, prefix, job: as `learner_weights`.
        limits: what the reading process may take.
    Raises:
        ConversionRefused: a file with anything but tensors and plain values, without a model, or beyond the limits.
        InvalidInput: `out` exists and holds other bytes.
        OSError: `source` cannot be read or `out` not written.
    Cost: a process that imports torch (seconds), the weights in its memory, the file written twice.
    """
    source, out = source.resolve(strict=True), out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".convert-") as folder:
        made = Path(folder) / "weights.safetensors"
        asked: dict[str, JsonValue] = {
            "source": str(source), "out": str(made), "key": key, "prefix": prefix, "job": job,
            "memory_bytes": limits.memory_bytes, "cpu_s": limits.cpu_s,
        }  # fmt: skip
        answer = _answer(asked, source, limits)
        if refusal := answer.optional_text("refused"):
            raise ConversionRefused(f"{refusal} ({source})")
        check_safetensors(made, where=str(source))
        sha256_hex = place_checkpoint(made, out.parent, key=out.name)
        left_out = {each.text("name"): each.text("why") for each in answer.objects("left_out")}
        return Converted(
            sha256=sha256_hex,
            num_tensors=answer.integer("num_tensors"),
            num_bytes=out.stat().st_size,
            dtypes=tuple(each.text("name") for each in answer.objects("dtypes")),
            left_out=left_out,
            is_offline=answer.integer("is_offline") == 1,
        )


def _answer(asked: dict[str, JsonValue], source: Path, limits: Limits) -> JsonFields:
    """Run the process and return what it says; how it ended where it says nothing."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", PROCESS, json.dumps(asked)],
            env=process_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limits.wall_s,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ConversionRefused(
            f"a file must be read within {limits.wall_s:g} s; got no end ({source}). Allow more time."
        ) from error
    try:
        return as_fields(done.stdout, where="conversion")
    except CorruptFile as error:
        raise ConversionRefused(_ending(done, source, limits)) from error


def process_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the process: no tokens, no proxies, no GPU."""
    kept = {name: environment[name] for name in _KEPT_VARIABLES if name in environment}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": "", "HOME": "/"}


def _ending(done: subprocess.CompletedProcess[bytes], source: Path, limits: Limits) -> str:
    if -done.returncode in (signal.SIGXCPU, signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV):
        return (
            f"a file must be read within {limits.cpu_s} s of processor time and the machine's memory; got "
            f"{signal.Signals(-done.returncode).name} ({source}). Allow more "
            "(--cpu-s, --memory-bytes), or convert where there is more."
        )
    last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
    return (
        f"a file must be one that torch can read; its reader ended with {done.returncode}: {last} ({source}). "
        "Check that it is whole."
    )
