"""Byte-level BPE over lower-cased captions; token 0 is padding.

n captions, T tokens (the context length).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from superbatch.formats.errors import InvalidInput

PADDING = "<pad>"
PADDING_ID = 0
MIN_VOCAB_SIZE = 257
"""One token per byte, and padding: with these any caption can be written."""


class InvalidTokenizer(InvalidInput):
    """A tokenizer file is not one this encoder can use."""

    code = "invalid_tokenizer"


class TinyTokenizer:
    """Captions to fixed-length rows of token numbers; a longer caption loses its end."""

    def __init__(self, backend: Tokenizer) -> None:
        """Take a `tokenizers` object whose token 0 is padding."""
        if backend.token_to_id(PADDING) != PADDING_ID:
            raise InvalidTokenizer(
                f"token {PADDING!r} must have number {PADDING_ID}; got {backend.token_to_id(PADDING)}. "
                "Use a tokenizer.json written by superbatch.tiny."
            )
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True  # a caption that spells "<pad>" is text
        self._backend = backend

    @property
    def vocab_size(self) -> int:
        """Return the number of tokens, padding included."""
        return int(self._backend.get_vocab_size())

    def encode(self, captions: Sequence[str], *, context_length: int) -> npt.NDArray[np.int64]:
        """Return tokens_nT, padded with `PADDING_ID`."""
        tokens_nT = np.full((len(captions), context_length), PADDING_ID, dtype=np.int64)
        for row, caption in zip(tokens_nT, captions, strict=True):
            ids = self._backend.encode(caption, add_special_tokens=False).ids[:context_length]
            row[: len(ids)] = ids
        return tokens_nT

    def to_bytes(self) -> bytes:
        """Return tokenizer.json: equal tokenizers give equal bytes."""
        text: str = self._backend.to_str(pretty=False)
        return text.encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> TinyTokenizer:
        """Read tokenizer.json."""
        try:
            document = json.loads(data.decode("utf-8"))
            if not isinstance(document, dict):
                raise InvalidTokenizer("tokenizer.json must hold one JSON object")
            return cls(Tokenizer.from_str(data.decode("utf-8")))
        except InvalidTokenizer:
            raise
        except Exception as error:  # tokenizers raises bare Exception on what it cannot read
            raise InvalidTokenizer(f"tokenizer.json cannot be read: {error}") from error

    @classmethod
    def load(cls, path: Path) -> TinyTokenizer:
        """Read tokenizer.json from a file."""
        return cls.from_bytes(path.read_bytes())


def train_tokenizer(captions: Iterable[str], *, vocab_size: int = 1024) -> TinyTokenizer:
    """Return the tokenizer learned from `captions`; the same captions in any order give the same tokenizer."""
    if vocab_size < MIN_VOCAB_SIZE:
        raise InvalidTokenizer(f"vocab_size must be at least {MIN_VOCAB_SIZE} (bytes and padding); got {vocab_size}.")
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PADDING],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    return TinyTokenizer(backend)
