"""Pictures from outside made small: bombs, damage and markup give a drawing with the reason, at bounded cost."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from io import BytesIO

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from superbatch.formats.jpeg import MAX_SCANS
from superbatch.tiny.picture import FORMATS
from superbatch.tiny.picture import MAX_PIXELS as PIXELS_OF_INDEX
from superbatch_server.service.dashboard.scores.thumbnails import MAX_PIXELS, SIDE, placeholder, thumbnail
from superbatch_server.storage.index_spec import IndexSpec
from tests.service.dashboard.scores.scored_world import png


def png_head(width: int, height: int) -> bytes:
    """Return a PNG that says its size and has a little data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(30_000_000))) + chunk(b"IEND", b"")


def webp_head(kind: bytes, width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBP" + kind + struct.pack("<I", 10) + bytes(4) + size + bytes(64)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_format_of_the_index_becomes_a_small_picture(kind: str) -> None:
    made = thumbnail(png("blue", (600, 300), kind=kind))
    assert made.reason == ""
    with Image.open(BytesIO(made.content)) as small:
        assert small.size == (SIDE, SIDE // 2)
        assert small.convert("RGB").getpixel((5, 5))[2] > 200  # type: ignore[index]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_of_pixels_becomes_a_picture(mode: str) -> None:
    out = BytesIO()
    Image.new(mode, (40, 20)).save(out, format="JPEG" if mode == "CMYK" else "TIFF" if mode == "F" else "PNG")
    made = thumbnail(out.getvalue())
    assert made.media_type in (("image/svg+xml",) if mode == "F" else ("image/png", "image/jpeg"))


SECRET = b"<script>alert(1)</script> private note"


def noted(kind: str) -> bytes:
    """Return a picture that carries a note in every place that its format has for one."""
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    notes = PngInfo()
    notes.add_text("Comment", SECRET.decode())
    out = BytesIO()
    more = {"PNG": {"pnginfo": notes}, "JPEG": {"comment": SECRET}, "WEBP": {"xmp": SECRET}}[kind]
    Image.new("RGBA" if kind == "PNG" else "RGB", (32, 24)).save(out, kind, exif=exif, icc_profile=SECRET, **more)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_notes_and_profiles_inside_a_picture_are_not_handed_on(kind: str) -> None:
    made = thumbnail(noted(kind))
    assert made.reason == ""
    with Image.open(BytesIO(made.content)) as small:
        assert not {"comment", "exif", "xmp", "icc_profile", "Comment"} & set(small.info)
    assert b"private" not in made.content


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(png_head(30_000, 30_000), id="png"),
        pytest.param(webp_head(b"VP8X", 16_000, 16_000), id="webp"),
    ],
)
def test_a_bomb_is_refused_by_its_header_within_bounded_memory(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        made = thumbnail(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.reason == f"more than {MAX_PIXELS:,} pixels"
    assert made.media_type == "image/svg+xml"
    assert peak < 4 << 20


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png("red", (500, 500), kind="JPEG")[:700], id="truncated jpeg"),
        pytest.param(png("red", (500, 500))[:120], id="truncated png"),
        pytest.param(b"<html><script>alert(1)</script></html>", id="html"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', id="svg"),
        pytest.param(b"GIF89a" + bytes(100), id="gif"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="signature only"),
        pytest.param(b"RIFF\x16\0\0\0WEBPVP8X" + bytes(30), id="empty webp"),
        pytest.param(b"\xff", id="one byte"),
    ],
)
def test_damage_gives_a_drawing_that_says_so(data: bytes) -> None:
    made = thumbnail(data)
    assert made.reason == "damaged, or not a picture"
    assert b"alert" not in made.content


def test_a_jpeg_of_many_scans_is_not_decoded() -> None:
    out = BytesIO()
    Image.new("L", (64, 64), 90).save(out, "JPEG", progressive=True)
    whole = out.getvalue()
    last = whole[whole.rfind(b"\xff\xda") : -2]
    assert thumbnail(whole).reason == ""
    assert thumbnail(whole[:-2] + last * MAX_SCANS + whole[-2:]).reason == f"a JPEG of more than {MAX_SCANS} scans"


def test_no_picture_says_so() -> None:
    assert thumbnail(b"").reason == "the row has no picture"


def test_random_damage_never_raises() -> None:
    chance = random.Random(5)
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = png("green", (64, 64), kind=kind)
        for _ in range(60):
            broken = bytearray(whole)
            for _ in range(chance.randint(1, 6)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            assert thumbnail(bytes(broken)[: chance.randint(1, len(broken))]).content


def test_a_placeholder_is_a_drawing_without_script() -> None:
    drawing = placeholder("its shard has changed since it was indexed").content.decode()
    assert drawing.startswith("<svg ")
    assert "script" not in drawing
    assert "indexed" in drawing


def test_the_limits_are_those_of_the_index_pass() -> None:
    assert IndexSpec().picture_formats == FORMATS
    assert IndexSpec().max_pixels == MAX_PIXELS == PIXELS_OF_INDEX
