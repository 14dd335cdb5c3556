"""Superbatch for trainers: read jointly selected batches exactly, in order, at any world size.

`superbatch.log.BatchLog` follows a job, `superbatch.reading.ExampleReader` reads its examples.
Nothing heavy is imported here.
"""

__version__ = "0.1.0"
