"""The sizes of a tiny dual encoder, as stored in config.json."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from superbatch.formats.errors import InvalidInput

ARCHITECTURE = "superbatch-tiny-v1"
MAX_SIZE = 4096

COLOUR_CHANNELS = 3
KERNEL_SIZE = 3
CHANNELS_PER_GROUP = 8


class InvalidConfig(InvalidInput):
    """A config.json does not describe a tiny dual encoder."""

    code = "invalid_config"


@dataclasses.dataclass(frozen=True)
class TinyConfig:
    """Sizes of both towers. The defaults learn the sample in about ten seconds on one core."""

    image_size: int = 32
    """Pixels per side of the square picture."""
    patch_size: int = 4
    """Pixels per side of the squares that the first layer reads."""
    image_channels: tuple[int, ...] = (64, 128)
    """Channels of the layers: the first reads patches, each later one halves the picture."""
    vocab_size: int = 1024
    """Rows of the token table: at least the size of the tokenizer."""
    context_length: int = 16
    """Tokens read of a caption."""
    text_width: int = 128
    """Width of a token and of the text tower."""
    width: int = 128
    """D, the width of an embedding."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no model."""
        for name in ("image_size", "patch_size", "vocab_size", "context_length", "text_width", "width"):
            _check_size(name, getattr(self, name), largest=1 << 20 if name == "vocab_size" else MAX_SIZE)
        if not isinstance(self.image_channels, tuple) or not self.image_channels:
            raise InvalidConfig(f"image_channels must list at least one layer; got {self.image_channels!r}.")
        for channels in self.image_channels:
            _check_size("image_channels", channels, largest=MAX_SIZE)
            if channels % CHANNELS_PER_GROUP:
                raise InvalidConfig(f"image_channels must be multiples of {CHANNELS_PER_GROUP}; got {channels}.")
        shrink = self.patch_size << (len(self.image_channels) - 1)
        if self.image_size % shrink:
            raise InvalidConfig(
                f"image_size must be a multiple of {shrink} (patch_size {self.patch_size}, "
                f"{len(self.image_channels) - 1} halvings); got {self.image_size}."
            )

    @property
    def image_sides(self) -> tuple[int, ...]:
        """Return the side of the picture after each layer."""
        return tuple(self.image_size // self.patch_size >> layer for layer in range(len(self.image_channels)))

    def to_bytes(self) -> bytes:
        """Return config.json: sorted keys, one trailing newline."""
        document = {"architecture": ARCHITECTURE, **dataclasses.asdict(self)}
        return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> TinyConfig:
        """Read config.json; unknown and missing keys are refused."""
        try:
            document = json.loads(data.decode("utf-8"))
        except ValueError as error:
            raise InvalidConfig(f"config.json must be JSON in UTF-8: {error}") from error
        if not isinstance(document, dict) or document.pop("architecture", None) != ARCHITECTURE:
            raise InvalidConfig(f'config.json must be an object with "architecture": "{ARCHITECTURE}".')
        known = {field.name for field in dataclasses.fields(cls)}
        if wrong := known.symmetric_difference(document):
            raise InvalidConfig(f"config.json must have exactly the keys {sorted(known)}; wrong: {sorted(wrong)}.")
        if isinstance(document["image_channels"], list):
            document["image_channels"] = tuple(document["image_channels"])
        return cls(**document)

    @classmethod
    def load(cls, path: Path) -> TinyConfig:
        """Read config.json from a file."""
        return cls.from_bytes(path.read_bytes())


def _check_size(name: str, value: object, *, largest: int) -> None:
    if type(value) is not int or not 1 <= value <= largest:
        raise InvalidConfig(f"{name} must be a whole number in [1, {largest}]; got {value!r}.")
