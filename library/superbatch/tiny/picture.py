"""Bytes as stored in a data set -> picture and caption, or a `BadRow` that says why not.

Everything here reads bytes from outside. A row is either decoded in full or refused with one stable reason: no
half-decoded picture reaches a model, because the same row must give the same embedding wherever it is read.
"""

from __future__ import annotations

import io
import warnings
from enum import StrEnum

from PIL import Image, ImageFile

from superbatch.formats.errors import InvalidInput
from superbatch.formats.jpeg import MAX_SCANS, num_scans

MAX_PIXELS = 1 << 24
"""Default limit on width x height: 4096 x 4096, 48 MiB once decoded."""

FORMATS = ("PNG", "JPEG", "WEBP")
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"


class BadRowReason(StrEnum):
    """Why a row is quarantined. The values are stored in the index and never change."""

    UNDECODABLE_PICTURE = "undecodable_picture"
    PICTURE_TOO_LARGE = "picture_too_large"
    MISSING_PICTURE = "missing_picture"
    MISSING_CAPTION = "missing_caption"
    EMPTY_CAPTION = "empty_caption"
    CAPTION_NOT_UTF8 = "caption_not_utf8"


class BadRow(InvalidInput):
    """One row cannot be used; the shard goes on."""

    code = "bad_row"

    def __init__(self, reason: BadRowReason, detail: str = "") -> None:
        """Keep `reason` and `detail` as the arguments, so that the error survives a process boundary."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        """Return the reason, followed by what was found."""
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


def open_picture(data: bytes | None, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the whole picture as RGB; what is transparent becomes white.

    Of an animation the first frame counts. An orientation noted in EXIF is not applied. The size is read from the
    header and checked before a pixel is decoded, and so is the number of scans of a JPEG.
    """
    if not data:
        raise BadRow(BadRowReason.MISSING_PICTURE)
    if (scans := num_scans(data)) > MAX_SCANS:
        raise BadRow(BadRowReason.PICTURE_TOO_LARGE, f"{scans} scans are above {MAX_SCANS}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            _refuse_large(picture, max_pixels)
            _refuse_cut(data, picture)
            return _to_rgb(picture)
    except (BadRow, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadRow(BadRowReason.PICTURE_TOO_LARGE, str(error)) from error
    except Exception as error:  # Pillow's decoders raise whatever the damage leads to: there is no common base class.
        raise BadRow(BadRowReason.UNDECODABLE_PICTURE, f"{type(error).__name__}: {error}") from error


def read_caption(data: bytes | None) -> str:
    """Return the caption, stripped of white space at both ends; nothing but white space counts as empty."""
    if data is None:
        raise BadRow(BadRowReason.MISSING_CAPTION)
    try:
        caption = data.decode("utf-8", errors="strict").strip()
    except UnicodeDecodeError as error:
        raise BadRow(BadRowReason.CAPTION_NOT_UTF8, str(error)) from error
    if not caption:
        raise BadRow(BadRowReason.EMPTY_CAPTION)
    return caption


def _refuse_large(picture: ImageFile.ImageFile, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise BadRow(BadRowReason.PICTURE_TOO_LARGE, f"{width} x {height} is above {max_pixels} pixels")


def _refuse_cut(data: bytes, picture: ImageFile.ImageFile) -> None:
    """Refuse files without their end marker: Pillow accepts some whose last pixels or checks are gone."""
    end = {"PNG": _PNG_END, "JPEG": _JPEG_END}.get(picture.format or "")
    if end is not None and data.rfind(end) < 0:
        raise BadRow(BadRowReason.UNDECODABLE_PICTURE, f"{picture.format} without its end marker")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
