"""A trainer of several ranks whose loader may skip one unreadable batch; test_recipes.py starts it under the kit."""

from __future__ import annotations

from torch import distributed

from examples.trainers.tiny_pairs import open_loader, record
from superbatch.conformance import Trace


def main() -> None:
    """Train nothing on every batch that all ranks can read."""
    distributed.init_process_group("gloo")
    trace = Trace.from_environment()
    loader = open_loader(trace, skip_unreadable=1)
    for batch in loader:
        loader.trained(batch)
        record(trace, loader, batch)
        if trace.is_finished:
            break
    loader.close()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
