"""Pictures of a data set made small and encoded anew, so that no byte from outside reaches a browser as it is.

Size, format and scans are known before a pixel is decoded. A picture that cannot be shown gives a drawing
that says why; nothing here raises.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from PIL import Image

from superbatch.formats.jpeg import MAX_SCANS, num_scans
from superbatch_server.storage.index_spec import IndexSpec

SIDE = 192
MAX_BYTES = 32 << 20
"""Encoded; a larger member is not read."""

MAX_PIXELS = IndexSpec().max_pixels
"""Of a decoded picture: 4096 x 4096, at most 64 MiB."""

_FORMATS = IndexSpec().picture_formats
_WEBP_HEAD_BYTES = 30


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An encoded picture; `reason` is empty where it shows the row, else it is a drawing that says it."""

    content: bytes
    media_type: str
    reason: str = ""


def thumbnail(data: bytes) -> Thumbnail:
    """Return a picture of at most SIDE x SIDE pixels.

    Cost: one decoded picture, MAX_PIXELS at most; a JPEG is decoded at about the wanted size.
    """
    try:
        return _made(data)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return _too_large()
    except MemoryError:
        return placeholder("not enough memory to decode it")
    except Exception:
        return placeholder("damaged, or not a picture")


def placeholder(reason: str) -> Thumbnail:
    """Return a drawing that says why there is no picture; `reason` is ours, never from outside."""
    words = reason.split(" ")
    lines, line = [], ""
    for word in words:
        if line and len(line) + len(word) > 19:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    texts = "".join(
        f'<text x="96" y="{92 + 20 * i}" text-anchor="middle" font-family="sans-serif" font-size="15" fill="#7b8594">'
        f"{text}</text>"
        for i, text in enumerate([*lines, line])
    )
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE}" height="{SIDE}" viewBox="0 0 192 192">'
        '<rect x="1" y="1" width="190" height="190" rx="6" fill="none" stroke="#7b8594" stroke-dasharray="5 5"/>'
        '<path d="M78 46h36M96 34v24" stroke="#7b8594" stroke-width="3" transform="rotate(45 96 46)"/>'
        f"{texts}</svg>"
    )
    return Thumbnail(drawing.encode(), "image/svg+xml", reason)


def _made(data: bytes) -> Thumbnail:
    if not data:
        return placeholder("the row has no picture")
    if num_scans(data) > MAX_SCANS:
        return placeholder(f"a JPEG of more than {MAX_SCANS} scans")
    if _webp_pixels(data) > MAX_PIXELS:
        return _too_large()
    with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            return _too_large()
        return _encoded(_small(picture))


def _small(picture: Image.Image) -> Image.Image:
    """Return the picture in RGB or RGBA, small; palettes are resolved before, because they cannot be averaged."""
    if picture.mode in ("1", "P", "PA"):
        picture = picture.convert(_mode_of(picture))
    picture.thumbnail((SIDE, SIDE))
    return picture.convert(_mode_of(picture))


def _mode_of(picture: Image.Image) -> str:
    return "RGBA" if picture.has_transparency_data else "RGB"


def _encoded(small: Image.Image) -> Thumbnail:
    clean = Image.new(small.mode, small.size)  # without comments, profiles and EXIF, which Pillow would hand on
    clean.paste(small)
    out = io.BytesIO()
    if clean.mode == "RGBA":
        clean.save(out, format="PNG")
        return Thumbnail(out.getvalue(), "image/png")
    clean.save(out, format="JPEG", quality=82)
    return Thumbnail(out.getvalue(), "image/jpeg")


def _too_large() -> Thumbnail:
    return placeholder(f"more than {MAX_PIXELS:,} pixels")


def _webp_pixels(data: bytes) -> int:
    """Return width x height from the header of a WebP file, 0 for other files: its decoder allots before it asks."""
    head = data[:_WEBP_HEAD_BYTES]
    if len(head) < _WEBP_HEAD_BYTES or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return 0
    kind = head[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(head[24:27], "little") + 1
        height = int.from_bytes(head[27:30], "little") + 1
    elif kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", head[26:30]))
    return width * height
