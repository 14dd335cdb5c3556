"""Text from outside can neither be markup, nor hide, nor turn its surroundings, nor fill the page."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from superbatch_server.service.dashboard.safe_text import LIMIT, MAX_MARKS, plain, shown, shown_lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a plain caption", "a plain caption"),
        ("\u202egnp.exe\u2066", "[U+202E]gnp.exe[U+2066]"),
        ("\x1b[31mred\x07", "[ESC][31mred[U+0007]"),
        ("one\ntwo\tthree\0", "one[LF]two[TAB]three[NUL]"),
        ("zero\u200bwidth\ufeff", "zero[U+200B]width[U+FEFF]"),
        ("half \ud800 surrogate", "half [U+D800] surrogate"),
        ("\x9b2J", "[U+009B]2J"),
        ("e" + "\u0301" * 90, "e" + "\u0301" * MAX_MARKS),
        ("שלום 👩\u200d💻 नमस्ते", "שלום 👩\u200d💻 नमस्ते"),
    ],
)
def test_what_hides_or_turns_text_becomes_visible(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_markup_is_escaped_once_and_isolated() -> None:
    assert shown("<b>&\"'") == Markup('<bdi class="outside">&lt;b&gt;&amp;&#34;&#39;</bdi>')


def test_a_megabyte_is_cut_and_says_how_long_it_was() -> None:
    made = plain("x" * (1 << 20), 100)
    assert made == "x" * 100 + "… (1,048,576 characters)"
    assert len(plain("\0" * (1 << 20))) < 6 * LIMIT


def test_lines_stay_lines() -> None:
    made = shown_lines("one\ttab\r\n<two>\x1b\n", 100)
    assert made == Markup("<bdi>one\ttab</bdi>\n<bdi>&lt;two&gt;[ESC]</bdi>\n<bdi></bdi>")
    assert "characters)" in shown_lines("long\n" * 100, 20)


@given(st.text(alphabet=st.characters(), max_size=400))
def test_nothing_that_is_shown_is_a_control_or_can_turn_text(text: str) -> None:
    made = plain(text)
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert all(unicodedata.category(each) not in ("Cc", "Cs") for each in made)
    assert all(unicodedata.bidirectional(each) not in turning for each in made)
    made.encode("utf-8")
    inner = shown(text).removeprefix('<bdi class="outside">').removesuffix("</bdi>")
    assert "<" not in inner
