"""Random access to the examples of a batch: tar, Parquet and JSONL shards, on disk, in an object store, behind HTTP.

`ExampleReader` turns rows of a batch list into the stored bytes of their towers, by few joined reads, and never drops
a row. `HttpServer` (superbatch.reading.http_server) and `ObjectStore` (superbatch.reading.object_store) are sources to
pass where a URL does not say enough. Standard library, pyarrow and httpx.
"""

from superbatch.reading.example_reader import Example, ExampleReader

__all__ = ["Example", "ExampleReader"]
