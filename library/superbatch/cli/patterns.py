"""Shard patterns: brace ranges, and source labels given by pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from superbatch.cli.errors import CommandError
from superbatch.formats.canonical import JsonObject

MAX_SHARDS = 100_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand(pattern: str) -> list[str]:
    """Return the keys that a pattern names: `pool-{08..10}.tar` is pool-08.tar, pool-09.tar, pool-10.tar.

    Several ranges expand with the last one running fastest; a width is kept where the first number is padded.
    Raises: CommandError for a range that runs backwards or is too long.
    """
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    if not 0 <= int(last) - int(first) < MAX_SHARDS:
        raise CommandError(f"a brace range must run upwards over at most {MAX_SHARDS:,} shards; got {found.group()!r}.")
    rests = expand(pattern[found.end() :])
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [pattern[: found.start()] + number + rest for number in numbers for rest in rests]


def shard_refs(patterns: Sequence[str], labels: Sequence[str]) -> list[JsonObject]:
    """Return the `shards` of a manifest.

    Args:
        patterns: keys or brace patterns, in order.
        labels: `label=pattern` each; a shard takes the label of the first pattern (key, brace range or `*` glob) that
            matches it. Without `patterns` these name the shards themselves.
    Raises: CommandError for a label without pattern, or one that matches no shard.
    """
    pairs = [_pair(label) for label in labels]
    if not pairs:
        return [{"key": pattern} for pattern in patterns]
    if not patterns:
        return [{"key": pattern, "source": label} for label, pattern in pairs]
    keys = [key for pattern in patterns for key in expand(pattern)]
    for label, pattern in pairs:
        if not any(_matches(key, pattern) for key in keys):
            raise CommandError(
                f"--source must match a shard of --shards; {label}={pattern} matches none of {len(keys)}."
            )
    return list(_labelled(keys, pairs))


def _pair(text: str) -> tuple[str, str]:
    label, separator, pattern = text.partition("=")
    if not (label and separator and pattern):
        raise CommandError(
            f"--source must be label=pattern; got {text!r}. For example --source 'emoji=pool-{{00..03}}.tar'."
        )
    return label, pattern


def _labelled(keys: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Iterator[JsonObject]:
    for key in keys:
        label = next((label for label, pattern in pairs if _matches(key, pattern)), None)
        yield {"key": key} if label is None else {"key": key, "source": label}


def _matches(key: str, pattern: str) -> bool:
    return any(fnmatchcase(key, part) for part in expand(pattern))
