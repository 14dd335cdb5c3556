"""Everything besides the inputs that decides the last bits of an embedding or a selection."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import torch

from superbatch.formats.errors import InvalidInput

_PREFIX = b"superbatch-numerics-v1\0"


@dataclass(frozen=True)
class NumericsProfile:
    """Fixed at job start, recorded, part of every cache key; never derived from the number of workers."""

    torch_version: str
    """For example 2.13.0+cpu."""
    device: str
    """Instruction set of the CPU ("cpu AVX512 BF16") or model of the GPU ("cuda NVIDIA H200")."""
    dtype: str
    """What the towers compute in: float32 or bfloat16."""
    threads_per_worker: int
    """Threads of one encoding process."""
    composer_threads: int
    """Threads of the process that selects."""
    micro_batch: int
    """Rows per forward."""

    def __post_init__(self) -> None:
        """Refuse counts below 1 and names that are no text."""
        for name in ("threads_per_worker", "composer_threads", "micro_batch"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InvalidInput(f"{name} must be a whole number of at least 1; got {value!r} (numerics profile).")
        for name in ("torch_version", "device", "dtype"):
            if not isinstance(getattr(self, name), str):
                raise InvalidInput(f"{name} must be text; got {getattr(self, name)!r} (numerics profile).")

    def to_json(self) -> str:
        """Return the profile as canonical JSON: sorted keys, no spaces."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> NumericsProfile:
        """Return the profile that `to_json` wrote.

        Raises: InvalidInput for anything else.
        """
        try:
            return cls(**json.loads(text))
        except InvalidInput:
            raise
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"a numerics profile must be the JSON that to_json wrote; {error}.") from error

    def digest(self) -> str:
        """Return sha256("superbatch-numerics-v1\\0" + canonical JSON) as 64 hex digits."""
        return hashlib.sha256(_PREFIX + self.to_json().encode()).hexdigest()


def local_profile(
    *, dtype: str = "float32", threads_per_worker: int, composer_threads: int, micro_batch: int
) -> NumericsProfile:
    """Return the profile of this machine's CPU.

    Raises: InvalidInput for a count below 1.
    """
    return NumericsProfile(
        torch_version=torch.__version__,
        device=_cpu(),
        dtype=dtype,
        threads_per_worker=threads_per_worker,
        composer_threads=composer_threads,
        micro_batch=micro_batch,
    )


def _cpu() -> str:
    """Return the instruction set; a selection in bf16 has other last bits where the CPU multiplies bf16 itself."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions do not tell
    multiplies_bf16 = any(is_there for name, is_there in capabilities.items() if name.endswith("bf16"))
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" + (" BF16" if multiplies_bf16 else "")
