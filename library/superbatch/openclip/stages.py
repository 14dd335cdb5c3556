"""Stages that take the place of open_clip's in its training pipeline; plain callables, so that they can be pickled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn, Protocol

from superbatch.formats.errors import CorruptFile, UnreadableExample
from superbatch.formats.uid import uid_of_bytes
from superbatch.openclip.plan import ReadingPlan

Sample = dict[str, Any]
"""A sample of webdataset: content per suffix, and what it notes itself under names with two underscores."""

UID_NAME = "__uid__"
PICTURE_SUFFIXES = ("jpg", "png", "jpeg", "webp")


class Epoch(Protocol):
    """open_clip's SharedEpoch: the epoch under way, known to all workers."""

    def get_value(self) -> int:
        """Return the epoch, counted from 0."""
        ...


def end_the_run(error: Exception) -> NoReturn:
    """Handle an error of webdataset; open_clip's own handler drops the row or tar, and so moves all that follow.

    Raises:
        UnreadableExample: always.
    """
    if isinstance(error, UnreadableExample):  # webdataset hands it from stage to stage, and adds to its arguments
        error.args = error.args[:1]
        raise error
    about = ", ".join(str(part)[:300] for part in (*error.args, error.__cause__) if part is not None)
    raise UnreadableExample(
        f"every row of a joint batch must be read; got {type(error).__name__}: {about}. "
        "Export or fetch the tar again, then resume: no row was dropped."
    ) from error


@dataclass(frozen=True)
class EpochTars:
    """Takes the place of the shuffle of tars: passes on the tars of this epoch, in their order."""

    plan: ReadingPlan
    epoch: Epoch

    def __call__(self, tars: Iterable[Sample]) -> Iterator[Sample]:
        """Yield the tars of this epoch."""
        window = self.plan.tars_of_epoch(self.epoch.get_value())
        return islice(iter(tars), window.start, window.stop)


@dataclass(frozen=True)
class WholeTars:
    """Takes the place of the stage that reads tars: every tar is read to its end and has all of its rows.

    A tar that is short would move every later row of its worker into another batch.
    read: open_clip's own stage. rows_per_tar: what each must yield.
    """

    read: Callable[..., Iterator[Sample]]
    rows_per_tar: int

    def __call__(self, tars: Iterable[Sample]) -> Iterator[Sample]:
        """Yield the samples of each tar in turn.

        Raises:
            CorruptFile: a tar with another number of rows.
            UnreadableExample: a tar that cannot be read, or a `pipe:` command that failed.
        """
        for tar in tars:
            num_rows = 0
            for sample in self.read(iter([tar]), handler=end_the_run):
                num_rows += 1
                yield sample
            _finish(tar.get("stream"))
            if num_rows != self.rows_per_tar:
                raise CorruptFile(
                    f"a tar must have the rows of one rank and step, {self.rows_per_tar} (--batch-size); got "
                    f"{num_rows} ({tar['url']}). Export with this world size and accumulation, or fetch the tar again."
                )


def _finish(stream: Any) -> None:
    """Read what follows the end marker, and close; of a `pipe:` this raises when the command failed."""
    try:
        while stream.read(1 << 20):
            pass
        stream.close()
    except OSError as error:
        end_the_run(error)


@dataclass(frozen=True)
class NotingUids:
    """Takes the place of open_clip's filter, in a trace only: the filter, and the uid of what is passed on."""

    keep: Callable[[Sample], bool]

    def __call__(self, sample: Sample) -> bool:
        """Claim that the sample is kept; note the uid of its picture and caption, from their bytes."""
        if not self.keep(sample):
            return False
        picture = next(sample[suffix] for suffix in PICTURE_SUFFIXES if suffix in sample)
        sample[UID_NAME] = uid_of_bytes(picture, sample["txt"]).hex()
        return True
