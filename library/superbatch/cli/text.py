"""Plain text for a terminal: columns, counts and durations. Nothing from outside reaches the terminal raw."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def shown(text: str) -> str:
    """Return `text` on one line without control or direction characters, which could forge what a terminal shows."""
    return "".join(
        " " if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs") else char for char in text
    ).strip()


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows in aligned columns below their headings; a column of numbers is aligned to the right."""
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    is_number = [all(_is_number(cell) for cell in column) and bool(rows) for column in zip(*cells, strict=True)]
    return "\n".join(_line(row, widths, is_number or [False] * len(headings)) for row in ([*headings], *cells))


def count(number: int, noun: str) -> str:
    """Return '1 row' or '2,000 rows'."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """Return '42s', '3m05s' or '2h07m'."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest_s = divmod(whole, 60)
    return f"{minutes}m{rest_s:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").replace(".", "", 1).isdigit()


def _line(row: Sequence[str], widths: Sequence[int], is_number: Sequence[bool]) -> str:
    cells = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(row, widths, is_number, strict=True)
    )
    return "  ".join(cells).rstrip()
