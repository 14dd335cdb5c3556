"""The conformance kit: proves that a loader gives exactly the batches of a log, on all ranks, after every resume."""

from superbatch.conformance.trace import Trace

__all__ = ["Trace"]
