"""Fetches many pieces of many objects: near ones joined, remote ones side by side, failed ones again.

A *piece* is a byte range of an object, wanted for a row. Pieces of one object become *runs*; a *call* asks a source for
runs of one object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import NamedTuple, TypeVar

from superbatch.formats.errors import InvalidInput, UnreadableExample
from superbatch.formats.tar import MAX_MEMBER_BYTES
from superbatch.reading.per_process import PerProcess
from superbatch.reading.ranges import MAX_RUN_BYTES, ByteRange, Run, coalesce, parts_of
from superbatch.reading.rows import Place
from superbatch.reading.sources import Answer, RangeSource
from superbatch.reading.tries import Tries

LOCAL_GAP_BYTES = 64 << 10
REMOTE_GAP_BYTES = 512 << 10
REMOTE_RUN_BYTES = 8 << 20
"""One stream of an object store gives less than the line: longer runs are cut so that several share it."""

R = TypeVar("R")


class Piece(NamedTuple):
    """Bytes of an object, and the row that wants them."""

    place: Place
    range: ByteRange


class _Call(NamedTuple):
    """Runs of one object that are asked for together; the positions in a run are those in all pieces."""

    place: Place
    runs: tuple[Run, ...]

    @property
    def num_bytes(self) -> int:
        return sum(run.range.length for run in self.runs)


class _Fetched(NamedTuple):
    """Contents by position in all pieces, and how many bytes were read for them."""

    contents: list[tuple[int, bytes]]
    num_bytes: int


class Fetcher:
    """Fetches pieces of objects in named roots.

    Args:
        sources: source per name of a root.
        tries: how often a read is tried.
        gap_bytes: pieces of one object at most this far apart become one read; None for LOCAL_GAP_BYTES of a local
            file, where a second read costs less than the bytes between, and REMOTE_GAP_BYTES elsewhere.
        num_threads: reads from remote sources under way at once.
    """

    def __init__(
        self, sources: Mapping[str, RangeSource], *, tries: Tries, gap_bytes: int | None, num_threads: int
    ) -> None:
        if num_threads < 1:
            raise InvalidInput(f"num_threads must be at least 1; got {num_threads}.")
        self.tries = tries
        self.bytes_read = 0
        self._sources = sources
        self._gap_bytes = gap_bytes
        self._threads = PerProcess(partial(ThreadPoolExecutor, num_threads, thread_name_prefix="superbatch-read"))
        self._first_version: dict[tuple[str, str], str] = {}
        self._version: dict[tuple[str, str], str] = {}

    def fetch(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Return the bytes of each piece, in order.

        Raises:
            UnreadableExample: a piece could not be read after all tries; the message names its row.
            InvalidInput: a root without a source, a negative range, a key that could leave its root.
        Cost: memory: the pieces, and runs of at most 64 MiB beside them, or one longer piece.
        """
        contents = [b""] * len(pieces)
        for part in parts_of(self._calls(pieces), lambda call: call.num_bytes):
            for fetched in self._side_by_side(lambda call: self._fetched(call, pieces), self._joined(part)):
                self.bytes_read += fetched.num_bytes
                for position, content in fetched.contents:
                    contents[position] = content
        return contents

    def fetch_tails(self, places: Sequence[Place], num_bytes: int) -> list[Answer]:
        """Return the last `num_bytes` of each object, or all of a shorter one.

        Raises: UnreadableExample, InvalidInput.
        """
        answers = self._tails(places, num_bytes)
        for place, answer in zip(places, answers, strict=True):
            self._note(place, answer)
        return answers

    def fetch_files(self, places: Sequence[Place]) -> list[bytes]:
        """Return the content of small files, of at most 64 MiB (MAX_MEMBER_BYTES) each.

        Raises:
            UnreadableExample: also a larger file.
            InvalidInput: as `fetch`.
        """
        answers = self._tails(places, MAX_MEMBER_BYTES)
        for place, answer in zip(places, answers, strict=True):
            if answer.size_bytes is None or answer.size_bytes > MAX_MEMBER_BYTES:
                raise UnreadableExample(
                    f"a file must have at most {MAX_MEMBER_BYTES} bytes; got {answer.size_bytes} ({place})."
                )
        return [answer.parts[0] for answer in answers]

    def version(self, place: Place) -> str:
        """Return the mark that an object had when it was last read; "" if it has none or was not read."""
        return self._version.get(place[:2], "")

    def has_changed(self, place: Place) -> bool:
        """Return whether an object was seen in more than one version."""
        return self._first_version.get(place[:2], "") != self.version(place)

    def unreadable(self, place: Place, problem: object) -> UnreadableExample:
        """Return the error for a row that all tries could not read."""
        return UnreadableExample(
            f"published rows must stay readable; {problem} ({place}, {self.tries.num_attempts} tries). "
            "Restore the shard, then resume: no row was dropped."
        )

    def close(self) -> None:
        """Give threads and connections of this process back; a later read starts them anew."""
        if threads := self._threads.take():
            threads.shutdown()
        for source in self._sources.values():
            source.close()

    def _calls(self, pieces: Sequence[Piece]) -> list[_Call]:
        """Return the runs that cover the pieces, each as a call of its own, object by object."""
        by_object: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for position, (place, _) in enumerate(pieces):
            by_object[place.root, place.key].append(position)
        calls = []
        for (root, _), positions in by_object.items():
            place = pieces[positions[0]].place
            for run in self._runs([pieces[position].range for position in positions], root=root):
                wanted = tuple(positions[position] for position in run.positions)
                calls.append(_Call(place, (Run(run.range, wanted),)))
        return calls

    def _runs(self, ranges: Sequence[ByteRange], *, root: str) -> list[Run]:
        is_remote = self._source(root).is_remote
        gap_bytes = self._gap_bytes
        if gap_bytes is None:
            gap_bytes = REMOTE_GAP_BYTES if is_remote else LOCAL_GAP_BYTES
        longest = REMOTE_RUN_BYTES if is_remote else MAX_RUN_BYTES
        return coalesce(ranges, gap_bytes=gap_bytes, max_run_bytes=longest)

    def _joined(self, calls: Sequence[_Call]) -> list[_Call]:
        """Return the calls with those of one local file in one, which opens it once; remote ones stay apart."""
        joined: list[_Call] = []
        for (root, _), same in groupby(calls, key=lambda call: call.place[:2]):
            some = list(same)
            if not self._source(root).is_remote:
                some = [_Call(some[0].place, tuple(run for call in some for run in call.runs))]
            joined += some
        return joined

    def _side_by_side(self, action: Callable[[_Call], R], calls: Sequence[_Call]) -> Iterator[R]:
        """Yield what `action` makes of each call, in order; in threads if one is remote."""
        if len(calls) > 1 and any(self._source(call.place.root).is_remote for call in calls):
            return self._threads.get().map(action, calls)
        return map(action, calls)

    def _fetched(self, call: _Call, pieces: Sequence[Piece]) -> _Fetched:
        ranges = [run.range for run in call.runs]
        try:
            blocks = self.tries.call(lambda: self._read(call.place, ranges))
        except OSError:
            return self._fetched_singly(call, pieces)
        contents = []
        for run, block in zip(call.runs, blocks, strict=True):
            for position in run.positions:
                start = pieces[position].range.offset - run.range.offset
                contents.append((position, block[start : start + pieces[position].range.length]))
        return _Fetched(contents, sum(map(len, blocks)))

    def _fetched_singly(self, call: _Call, pieces: Sequence[Piece]) -> _Fetched:
        """Read each piece once by itself, which names the row that cannot be read."""
        contents = []
        for position in (position for run in call.runs for position in run.positions):
            place, wanted = pieces[position]
            try:
                contents.append((position, self._read(place, [wanted])[0]))
            except OSError as error:
                raise self.unreadable(place, error) from error
        return _Fetched(contents, sum(len(content) for _, content in contents))

    def _read(self, place: Place, ranges: Sequence[ByteRange]) -> list[bytes]:
        answer = self._source(place.root).read_ranges(place.key, ranges)
        self._note(place, answer)
        return answer.parts

    def _tails(self, places: Sequence[Place], num_bytes: int) -> list[Answer]:
        calls = [_Call(place, ()) for place in places]
        answers = list(self._side_by_side(lambda call: self._tail(call.place, num_bytes), calls))
        self.bytes_read += sum(len(answer.parts[0]) for answer in answers)
        return answers

    def _tail(self, place: Place, num_bytes: int) -> Answer:
        try:
            return self.tries.call(lambda: self._source(place.root).read_tail(place.key, num_bytes))
        except OSError as error:
            raise self.unreadable(place, error) from error

    def _note(self, place: Place, answer: Answer) -> None:
        """Remember the version of a shard; not that of the files of single rows, which are many and read once."""
        if answer.version:
            self._first_version.setdefault(place[:2], answer.version)
            self._version[place[:2]] = answer.version

    def _source(self, root: str) -> RangeSource:
        if root not in self._sources:
            raise InvalidInput(
                f"every root of the shard table needs a place to read from; got none for {root!r}, only "
                f"{sorted(self._sources)}. Add its path or URL to the roots of the reader."
            )
        return self._sources[root]
