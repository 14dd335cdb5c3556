"""A page of the documentation as a shell script: its ```sh blocks, run from top to bottom as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
SAMPLE = REPOSITORY / "examples/sample/data"
NEEDED = ("bash", "curl", "python3", "sha256sum", "split")


def why_not() -> str | None:
    """Return which program of the pages is not installed here."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"the pages' commands need {', '.join(missing)}" if missing else None


def script_of(page: Path, *, section: str | None = None) -> str:
    """Return the shell blocks of a page, or of one section of it, as one script."""
    text = page.read_text(encoding="utf-8")
    if section is not None:
        (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks, f"{page.name} has no shell block"
    return "\n".join(blocks)


def run_script(script: str, *, folder: Path, home: Path, limit_s: float = 150, **variables: str) -> str:
    """Run a script as it stands, ending at the first command that fails; return what it printed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SUPERBATCH_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=own | {"HOME": str(home), "PATH": path} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
