from __future__ import annotations

import contextlib
import io
import pickle
import struct
import warnings
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from superbatch.formats.errors import InvalidInput
from superbatch.formats.jpeg import MAX_SCANS, num_scans
from superbatch.tiny.picture import MAX_PIXELS, BadRow, BadRowReason, open_picture, read_caption


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    picture.save(data, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    return data.getvalue()


def gradient(mode: str = "RGB", side: int = 16) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((side, side))
    return Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))).convert(mode)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises more than the file holds."""
    body = b""
    for kind, content in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IEND", b"")):
        body += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return b"\x89PNG\r\n\x1a\n" + body


def of_scans(more: int) -> bytes:
    """Return a progressive JPEG whose last scan stands there so many times more."""
    data = io.BytesIO()
    gradient().save(data, format="JPEG", progressive=True)
    whole = data.getvalue()
    last = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + last * more + whole[-2:]


def reason_of(data: bytes | None, **options: int) -> BadRowReason:
    with pytest.raises(BadRow) as caught:
        open_picture(data, **options)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_lossless_pictures_come_back_as_they_were(kind: str) -> None:
    assert open_picture(encoded(gradient(), kind)).tobytes() == gradient().tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = gradient("I").convert("I;16") if mode == "I;16" else gradient(mode)
    assert open_picture(encoded(picture, "JPEG" if mode == "CMYK" else "PNG")).mode == "RGB"


def test_transparent_pixels_are_white_whatever_colour_hides_below() -> None:
    hidden = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_picture(encoded(hidden)).getcolors() == [(16, (255, 255, 255))]


def test_the_same_bytes_give_the_same_pixels() -> None:
    data = encoded(gradient(), "JPEG")
    assert open_picture(data).tobytes() == open_picture(data).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_cut_anywhere_is_refused(kind: str) -> None:
    data = encoded(gradient(), kind)
    for length in range(1, len(data)):
        assert reason_of(data[:length]) is BadRowReason.UNDECODABLE_PICTURE, length


@pytest.mark.parametrize("data", [None, b""])
def test_nothing_is_a_missing_picture(data: bytes | None) -> None:
    assert reason_of(data) is BadRowReason.MISSING_PICTURE


@pytest.mark.parametrize("data", [b"GIF89a", b"%PDF-1.4", b"\0" * 100, encoded(gradient(), "BMP")])
def test_other_formats_are_undecodable(data: bytes) -> None:
    assert reason_of(data) is BadRowReason.UNDECODABLE_PICTURE


@pytest.mark.parametrize("size", [(4097, 4096), (12_000, 12_000), (60_000, 60_000)])
def test_a_large_picture_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own warning must be an error for us, whatever the caller set
        assert reason_of(png_of_size(*size)) is BadRowReason.PICTURE_TOO_LARGE


def test_the_limit_itself_is_allowed() -> None:
    assert open_picture(encoded(Image.new("1", (16, 4))), max_pixels=64).size == (16, 4)
    assert reason_of(encoded(Image.new("1", (13, 5))), max_pixels=64) is BadRowReason.PICTURE_TOO_LARGE
    assert MAX_PIXELS == 4096 * 4096


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    fewest = num_scans(of_scans(0))
    assert open_picture(of_scans(MAX_SCANS - fewest)).size == (16, 16)
    with pytest.raises(BadRow, match=rf"picture_too_large: {MAX_SCANS + 1} scans are above {MAX_SCANS}"):
        open_picture(of_scans(MAX_SCANS + 1 - fewest))


def test_scans_are_those_of_jpegs() -> None:
    assert num_scans(encoded(gradient(), "JPEG")) == 1
    assert num_scans(encoded(gradient()) + b"\xff\xda" * 200) == 0


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 2000), value=st.integers(0, 255), kind=st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_a_damaged_byte_gives_a_picture_or_a_bad_row_and_nothing_else(position: int, value: int, kind: str) -> None:
    data = bytearray(encoded(gradient(), kind))
    data[position % len(data)] = value
    with contextlib.suppress(BadRow):
        assert open_picture(bytes(data), max_pixels=1 << 16).mode == "RGB"


def test_captions_are_utf8_and_stripped() -> None:
    assert read_caption(" Grüße 🎉\n".encode()) == "Grüße 🎉"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, BadRowReason.MISSING_CAPTION),
        (b"", BadRowReason.EMPTY_CAPTION),
        (" \t\r\n\u00a0\u3000".encode(), BadRowReason.EMPTY_CAPTION),
        (b"caf\xe9", BadRowReason.CAPTION_NOT_UTF8),
        (b"\xed\xa0\x80", BadRowReason.CAPTION_NOT_UTF8),
    ],
)
def test_captions_that_cannot_be_used(data: bytes | None, reason: BadRowReason) -> None:
    with pytest.raises(BadRow) as caught:
        read_caption(data)
    assert caught.value.reason is reason


def test_a_bad_row_crosses_processes_with_its_reason() -> None:
    error = pickle.loads(pickle.dumps(BadRow(BadRowReason.EMPTY_CAPTION, "3 spaces")))
    assert (error.reason, error.detail, str(error)) == (
        BadRowReason.EMPTY_CAPTION,
        "3 spaces",
        "empty_caption: 3 spaces",
    )
    assert isinstance(error, InvalidInput)


def test_reasons_are_stable() -> None:
    assert sorted(BadRowReason) == [
        "caption_not_utf8",
        "empty_caption",
        "missing_caption",
        "missing_picture",
        "picture_too_large",
        "undecodable_picture",
    ]
