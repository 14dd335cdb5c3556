"""What must be settled before any test module is imported."""

from __future__ import annotations

import os
from pathlib import Path

# Triton reads this once, when it is first imported, which torch does here and there: without a GPU its kernels are run
# by its interpreter (tests/superbatch/selection/pairs/test_triton.py). Asking torch for a GPU would import torch.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
