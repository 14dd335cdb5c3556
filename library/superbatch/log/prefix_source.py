"""The log of a job as plain files below a prefix: a folder, or a bucket that the service's store lies in."""

from __future__ import annotations

import itertools
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from superbatch.formats.bucket import (
    LOG_END_NAME,
    LOG_HEAD_NAME,
    SHARD_TABLE_NAME,
    LogEnd,
    LogHead,
    LogSegment,
    log_segment_name,
)
from superbatch.formats.errors import (
    BehindRetention,
    CorruptFile,
    HistoryChanged,
    InvalidInput,
    ServiceUnreachable,
)
from superbatch.formats.keys import checked_key
from superbatch.formats.manifest import Manifest
from superbatch.formats.segments import Segment
from superbatch.log.back_off import NUM_ATTEMPTS, BackOff

_SEGMENT_NAME = re.compile(r"(\d{12})\.json")
_MAX_DOCUMENT_BYTES = 1 << 20
_PAGE = 64
"""Segments taken up by one manifest; names probed at once when a state lies inside a segment."""
_LONGEST_POLL_PAUSE_S = 5.0
_PART_BYTES = 8 << 20
_LASTING_ERRORS = (PermissionError, NotADirectoryError, IsADirectoryError)

T = TypeVar("T")


class PrefixSource:
    """Reads one job's log from the files that the composer writes, by polling one known name; a LogSource.

    Args:
        uri: the prefix that holds log/ and lists/: an absolute path, or a URI that pyarrow.fs knows (file://, s3://,
            gs://, ...); with `filesystem` a path inside it.
        filesystem: a pyarrow filesystem with credentials or an endpoint of its own; None for the one of the URI.
        num_attempts: tries per read before ServiceUnreachable.
        rng, sleep, clock: jitter, pauses, monotonic time. A pause that returns True, as that of a set threading.Event
            does, ends the poll.
    Raises:
        InvalidInput: a URI that pyarrow does not know.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        filesystem: fs.FileSystem | None = None,
        num_attempts: int = NUM_ATTEMPTS,
        rng: random.Random | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.where = os.fspath(uri)
        self._files = _filesystem(self.where, filesystem)
        self._num_attempts = num_attempts
        self._back_off = BackOff(rng=rng, sleep=sleep)
        self._poll_pauses = BackOff(rng=rng, sleep=sleep, longest_s=_LONGEST_POLL_PAUSE_S)
        self._sleep = sleep
        self._clock = clock
        self._head: LogHead | None = None
        self._reached: int | None = None
        """A seq at which a segment is known to begin, once it is published."""

    def head(self) -> LogHead | None:
        """Return what never changes about the log; None while nobody has begun it."""
        if self._head is None:
            content = self._document(LOG_HEAD_NAME)
            self._head = None if content is None else LogHead.parse(content, where=self._place(LOG_HEAD_NAME))
        return self._head

    def manifest(self, next_seq: int, *, history_id: str | None, wait_s: float) -> Manifest | None:
        """Return the head and the segments from `next_seq` on; asks again, with growing pauses, for up to wait_s."""
        stop_s = self._clock() + wait_s
        for polls in itertools.count(1):
            found = self._manifest_now(next_seq)
            left_s = stop_s - self._clock()
            if (found is not None and (found.segments or found.end)) or left_s <= 0:
                break
            if self._sleep(min(left_s, self._poll_pauses.delay_s(polls))) is True:
                break
        if found is not None and history_id not in (None, found.history_id):
            raise HistoryChanged(
                f"a cursor belongs to one log; got history {history_id!r}, the log in {self.where} is "
                f"{found.history_id!r}. Give the prefix of that history, or start without a log state."
            )
        return found

    def content(self, link: str, *, max_bytes: int) -> bytes:
        """Return a file below the prefix."""
        name = checked_key(link, where=f"link in {self.where}")
        content = self._read(name, max_bytes=max_bytes)
        if content is None:
            raise CorruptFile(
                f"what a log links to must be there; got no {name!r} (in {self.where}). "
                "Copy lists/ before log/, and open the log again from the saved state."
            )
        return content

    def pause(self, failures: int) -> None:
        """Sleep before the next try."""
        self._back_off.pause(failures)

    def close(self) -> None:
        """Nothing is held open."""

    def _manifest_now(self, next_seq: int) -> Manifest | None:
        head = self.head()
        if head is None:
            return None
        segments = self._segments_from(next_seq)
        end = None if segments else self._end()
        if end is not None and end.final_seq > next_seq:  # the last segments came between the two reads
            segments = self._segments_from(next_seq)
        stop_seq = segments[-1].stop_seq if segments else min(next_seq, self._reached or 0)
        is_whole = end is not None and (not segments or end.final_seq == stop_seq)
        return Manifest(
            job=head.job,
            history_id=head.history_id,
            dataset_fingerprint=head.dataset_fingerprint,
            shard_table=SHARD_TABLE_NAME,
            policy=head.policy,
            reference_digest=head.reference_digest,
            eligible_digest=None,
            numerics_profile=None,
            oldest_seq=segments[0].first_seq if segments else stop_seq,
            next_seq=end.final_seq if end is not None and is_whole else stop_seq,
            end=end.end if end is not None and is_whole else None,
            final_seq=end.final_seq if end is not None and is_whole else None,
            segments=segments,
        )

    def _segments_from(self, next_seq: int) -> tuple[Segment, ...]:
        first = self._segment(next_seq)
        if first is None and self._reached != next_seq:
            first = self._segment_before(next_seq)
        if first is None:
            return ()
        segments = [first]
        while len(segments) < _PAGE:
            following = self._segment(segments[-1].stop_seq)
            if following is None:
                break
            segments.append(following)
        self._reached = segments[-1].stop_seq
        return tuple(segment for segment in segments if segment.stop_seq > next_seq)

    def _segment_before(self, next_seq: int) -> Segment | None:
        """Return the segment that holds or precedes `next_seq`, which need not be the first of a segment."""
        near = range(next_seq - 1, max(-1, next_seq - 1 - _PAGE), -1)
        first_seq = next(self._existing(near), None)
        if first_seq is None:
            all_seqs = self._first_seqs()
            first_seq = max((seq for seq in all_seqs if seq <= next_seq), default=None)
            if first_seq is None and all_seqs:
                raise BehindRetention(next_seq, min(all_seqs))
        self._reached = 0 if first_seq is None else self._reached
        return None if first_seq is None else self._segment(first_seq)

    def _existing(self, first_seqs: range) -> Iterator[int]:
        names = [log_segment_name(seq) for seq in first_seqs]
        found = self._tried(lambda: self._files.get_file_info(names), what="log/")
        return (seq for seq, info in zip(first_seqs, found, strict=True) if info.type == fs.FileType.File)

    def _first_seqs(self) -> list[int]:
        selector = fs.FileSelector("log", allow_not_found=True)
        names = [info.base_name for info in self._tried(lambda: self._files.get_file_info(selector), what="log/")]
        return [int(match[1]) for name in names if (match := _SEGMENT_NAME.fullmatch(name))]

    def _segment(self, first_seq: int) -> Segment | None:
        name = log_segment_name(first_seq)
        content = self._document(name)
        if content is None:
            return None
        found, head = LogSegment.parse(content, where=self._place(name)), self.head()
        assert head is not None, "read before any segment"
        own = (head.job, head.history_id, head.dataset_fingerprint, first_seq)
        if (found.job, found.history_id, found.dataset_fingerprint, found.segment.first_seq) != own:
            raise HistoryChanged(
                f"all files of a log are of one history; got job {found.job!r}, history {found.history_id!r}, seq "
                f"{found.segment.first_seq} beside job {head.job!r}, history {head.history_id!r}, seq {first_seq} "
                f"({self._place(name)}). Do not copy two logs into one folder."
            )
        return found.segment

    def _end(self) -> LogEnd | None:
        content = self._document(LOG_END_NAME)
        if content is None:
            return None
        found, head = LogEnd.parse(content, where=self._place(LOG_END_NAME)), self.head()
        if head is None or (found.job, found.history_id) != (head.job, head.history_id):
            raise HistoryChanged(
                f"all files of a log are of one history; got job {found.job!r}, history {found.history_id!r} "
                f"({self._place(LOG_END_NAME)}). Do not copy two logs into one folder."
            )
        return found

    def _document(self, name: str) -> bytes | None:
        return self._read(name, max_bytes=_MAX_DOCUMENT_BYTES)

    def _read(self, name: str, *, max_bytes: int) -> bytes | None:
        def read() -> bytes | None:
            content = bytearray()
            try:
                with self._files.open_input_stream(name) as stream:
                    while len(content) <= max_bytes and (part := stream.read(min(_PART_BYTES, max_bytes + 1))):
                        content += part
            except FileNotFoundError:
                return None
            return bytes(content)

        content = self._tried(read, what=name)
        if content is not None and len(content) > max_bytes:
            raise CorruptFile(f"the file may have {max_bytes} bytes; got more ({self._place(name)}).")
        return content

    def _tried(self, read: Callable[[], T], *, what: str) -> T:
        last: Exception | None = None
        for failures in range(1, self._num_attempts + 1):
            try:
                return read()
            except (OSError, pa.ArrowException) as error:
                last = error
            if isinstance(last, _LASTING_ERRORS):
                break
            if failures < self._num_attempts:
                self._back_off.pause(failures)
        raise ServiceUnreachable(
            f"the store must answer; got {last} after {failures} tries ({self._place(what)}). "
            "Check the network, the address and the credentials, then resume from the saved state."
        ) from last

    def _place(self, name: str) -> str:
        return f"{self.where.rstrip('/')}/{name}"


def _filesystem(uri: str, filesystem: fs.FileSystem | None) -> fs.FileSystem:
    if filesystem is not None:
        return fs.SubTreeFileSystem(uri, filesystem)
    try:
        found, path = fs.FileSystem.from_uri(uri if "://" in uri or uri.startswith("file:") else os.path.abspath(uri))
    except (pa.ArrowException, ValueError) as error:
        raise InvalidInput(
            f"a log's prefix must be a path or a URI that pyarrow.fs knows; {error}, got {uri!r}. "
            "Write /absolute/path, file:///path, s3://bucket/path or gs://bucket/path."
        ) from error
    return fs.SubTreeFileSystem(path, found)
