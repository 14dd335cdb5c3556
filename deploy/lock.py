"""Resolve the three locks anew: exact versions, no index address, no hashes.

torch is pinned by hand (TORCH below): its build differs by platform, and each platform's own installer chooses it.
So is triton, which the tests use on machines without a GPU too: TRITON is the version that CUDA builds of this torch
ask for.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

TORCH = "torch==2.13.0"
TRITON = 'triton==3.7.1 ; platform_system == "Linux"'
ROOT = Path(__file__).resolve().parents[1]
BUILD = ["setuptools>=80", "wheel"]
OPENCLIP = ["open_clip_torch==3.3.0", "webdataset==0.2.86", "pandas", "setuptools>=80", "torchvision==0.29.2"]
"""What open_clip's trainer needs; it pins webdataset, and asks for transformers, which only its Hub models need."""
OPENCLIP_TORCH = "torch==2.15.0"
"""The torch of that torchvision: none imports beside the CPU build of TORCH."""


def project(path: Path) -> dict[str, list[str]]:
    """Return the requirements of a pyproject.toml by extra; the core under ''."""
    table = tomllib.loads(path.read_text())["project"]
    return {"": table["dependencies"], **table.get("optional-dependencies", {})}


def resolve(requirements: list[str], *, output: Path, torch: str = TORCH) -> None:
    """Write the lock of these requirements."""
    wanted = [line for line in requirements if not line.startswith(("superbatch", "torch>", "triton"))]
    with tempfile.NamedTemporaryFile("w", suffix=".in") as source:
        source.write("\n".join([*wanted, torch]) + "\n")
        source.flush()
        command = ["uv", "pip", "compile", source.name, "--python-version", "3.11", "--no-header", "--no-annotate"]
        found = subprocess.run(
            [sys.executable, "-m", *command, "--no-emit-index-url", *sys.argv[1:]],
            check=True,
            capture_output=True,
            text=True,
        )
    lines = [line.split("+", 1)[0] if line.startswith("torch==") else line for line in found.stdout.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("nvidia-", "triton==", "cuda-"))]
    if any(line.startswith("triton") for line in requirements):
        lines = sorted([*lines, TRITON], key=lambda line: line.split("==")[0])
    output.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Write the locks."""
    library, server = project(ROOT / "library/pyproject.toml"), project(ROOT / "pyproject.toml")
    trainer = library[""] + library["torch"]
    served = [line for extra in ("", "postgres", "cluster", "dev") for line in server[extra]]
    resolve(trainer + served + BUILD, output=ROOT / "requirements.lock")
    resolve(trainer, output=ROOT / "requirements-trainer.lock")
    resolve(library[""] + OPENCLIP, output=ROOT / "deploy/requirements-openclip.lock", torch=OPENCLIP_TORCH)


if __name__ == "__main__":
    main()
