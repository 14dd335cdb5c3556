"""The file formats of Superbatch: batch list, score shard, manifest, shard table, digests, locators, tar.

Standard library and pyarrow only, so that service, workers and trainers share one definition of every byte.
docs/formats.md says the same for readers in other languages.
"""
