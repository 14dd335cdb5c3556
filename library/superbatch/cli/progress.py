"""One line of progress: rewritten in place on a terminal, printed now and then elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

PLAIN_EVERY_S = 10.0
BAR_CELLS = 24
_PARTS = " ▏▎▍▌▋▊▉█"


def bar(fraction: float, *, cells: int = BAR_CELLS, plain: bool = False) -> str:
    """Return a bar of `cells` characters; in eighths of a cell, or in '#' and '.' where `plain`."""
    fraction = min(max(fraction, 0.0), 1.0)
    if plain:
        return ("#" * int(cells * fraction)).ljust(cells, ".")
    full, eighths = divmod(int(cells * 8 * fraction), 8)
    return ("█" * full + (_PARTS[eighths] if eighths else "")).ljust(cells, "░")


class ProgressLine:
    """Shows the newest state of something long, and lines of its history above it."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._is_tty = out.isatty()
        self._shown = ""
        self._head = ""
        self._plain_at_s = 0.0
        self.is_plain = not _can_write(out, _PARTS + "░")

    def show(self, head: str, rest: str) -> None:
        """Show a state: `head` names what is being done, `rest` says how far it is.

        Elsewhere than on a terminal a line is printed when `head` changes, and every ten seconds when `rest` does.
        """
        line = f"{head}  {rest}" if rest else head
        if self._is_tty:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[2K{line[:width]}")
        elif head != self._head or (line != self._shown and self._clock() >= self._plain_at_s):
            self._write(line + "\n")
            self._plain_at_s = self._clock() + PLAIN_EVERY_S
        else:
            return
        self._shown, self._head = line, head

    def log(self, line: str) -> None:
        """Print a line that stays, above the state."""
        self._write(f"\r\x1b[2K{line}\n{self._shown}" if self._is_tty else line + "\n")

    def end(self) -> None:
        """Leave the newest state where it is and go to a new line."""
        if self._is_tty and self._shown:
            self._write("\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _can_write(out: TextIO, text: str) -> bool:
    try:
        text.encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
