"""Published batches with what their candidates scored: found in the catalog, read from score shards and index files."""
