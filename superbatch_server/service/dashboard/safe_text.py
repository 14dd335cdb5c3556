"""Text from outside, made harmless to look at: captions, names, sources, reasons, log lines.

Escaping stops markup; this stops the rest: a megabyte where a line was meant, control characters that hide text, and
marks that turn the reading direction of the page around them. What is changed stays visible.
"""

from __future__ import annotations

import re
from itertools import groupby
from unicodedata import category

from markupsafe import Markup

LIMIT = 300
"""Characters shown where the caller names no limit."""

MAX_MARKS = 4
"""Combining marks kept on one letter; more of them would climb over the lines above."""

_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)

_NAMES = {"\0": "NUL", "\t": "TAB", "\n": "LF", "\r": "CR", "\x1b": "ESC"}


def plain(text: object, limit: int = LIMIT) -> str:
    """Return at most `limit` characters of a text with its invisible characters made visible, for attributes.

    A control character, direction mark, lone surrogate or invisible format character becomes its name or number, as
    [ESC] or [U+202E]; a pile of combining marks loses all but MAX_MARKS. Cost: the shown part.
    """
    whole = str(text)
    kept = _HIDDEN.sub(lambda found: _visible(found[0]), whole[:limit])
    return _without_piles(kept) + (f"… ({len(whole):,} characters)" if len(whole) > limit else "")


def shown(text: object, limit: int = LIMIT) -> Markup:
    """Return `plain` text as HTML: escaped, and isolated so that right-to-left text turns nothing around it."""
    return Markup('<bdi class="outside">{}</bdi>').format(plain(text, limit))


def shown_lines(text: str, limit: int) -> Markup:
    """Return several lines, such as a log's, as HTML for a <pre>; tabs and ends of lines stay what they are."""
    lines = text[:limit].replace("\r\n", "\n").split("\n")
    cut = [f"… ({len(text):,} characters)"] if len(text) > limit else []
    safe = ["\t".join(plain(part, limit) for part in line.split("\t")) for line in lines]
    return Markup("\n").join(Markup("<bdi>{}</bdi>").format(line) for line in [*safe, *cut])


def _visible(character: str) -> str:
    return f"[{_NAMES.get(character) or f'U+{ord(character):04X}'}]"


def _without_piles(text: str) -> str:
    if text.isascii():
        return text
    runs = ("".join(run) for _, run in groupby(text, key=lambda character: category(character) in ("Mn", "Me")))
    return "".join(run[:MAX_MARKS] if category(run[0]) in ("Mn", "Me") else run for run in runs)
