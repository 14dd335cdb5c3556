"""What a key of the store says about its object: whose it is, and what would make it visible."""

from __future__ import annotations

import re
from dataclasses import dataclass

from superbatch_server.schemas.garbage import GarbageKind

_JOB = r"jobs/(?P<job>[a-z]+_[0-9a-f]{16})/(?P<history>hist_[0-9a-f]{16})"
_LIST = re.compile(_JOB + r"/lists/(?P<seq>\d{12})-\d{12}-[0-9a-f]{16}\.parquet")
_SCORES = re.compile(_JOB + r"/scores/(?P<seq>\d{12})-\d+-[0-9a-f]{16}\.parquet")
_OTHER = re.compile(_JOB + r"/(log/(head|shards|end|\d{12})\.json|[a-z-]+\.json)")
_CACHE = re.compile(
    r"cache/(?P<kind>index|embedding)/(?P<key>[0-9a-f]{64})"
    r"/(?P<job>[a-z]+_[0-9a-f]{16})-(?P<token>\d{1,18})(-[0-9a-f]{16})?\.parquet"
)
_PARTIAL = re.compile(r"\.partial/[0-9a-f]{32}")


@dataclass(frozen=True)
class JobObject:
    """A list or score shard of the batch `seq`, or (None) a file that every job has."""

    kind: GarbageKind
    job_id: str
    history_id: str
    seq: int | None


@dataclass(frozen=True)
class CacheObject:
    """What one attempt made of a shard."""

    kind: GarbageKind
    cache_key: str
    job_id: str
    token: int


@dataclass(frozen=True)
class Partial:
    """An unfinished write."""


def parse_key(key: str) -> JobObject | CacheObject | Partial | None:
    """Return what a key says, None for one that the service did not give."""
    for pattern, kind in ((_LIST, GarbageKind.LIST), (_SCORES, GarbageKind.SCORE_SHARD)):
        if found := pattern.fullmatch(key):
            return JobObject(kind, found["job"], found["history"], int(found["seq"]))
    if found := _OTHER.fullmatch(key):
        return JobObject(GarbageKind.JOB_FILE, found["job"], found["history"], None)
    if found := _CACHE.fullmatch(key):
        return CacheObject(GarbageKind(found["kind"]), found["key"], found["job"], int(found["token"]))
    return Partial() if _PARTIAL.fullmatch(key) else None
