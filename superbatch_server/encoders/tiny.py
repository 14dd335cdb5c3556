"""The family `tiny`: superbatch.tiny behind the encoder protocol.

B rows, C channels, H rows and W columns of a picture, T tokens, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from superbatch.formats.errors import InvalidInput
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.flops import forward_flops_per_example
from superbatch.tiny.model import TinyDualEncoder, initial_model
from superbatch.tiny.picture import MAX_PIXELS, open_picture, read_caption
from superbatch.tiny.preprocess import PREPROCESS_VERSION, picture_to_pixels
from superbatch.tiny.tokenizer import TinyTokenizer
from superbatch.tiny.weights import check_fit, check_size, load_weights
from superbatch_server.encoders.protocol import MAX_NORM_ERROR, Embeddings, PreparedRow

ROLES = frozenset({"weights", "config", "tokenizer"})
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_DIGEST_PREFIX = b"superbatch-encoder-v1\0"
_BLANK_CAPTION = "blank"


class TinyEncoder:
    """A `DualEncoder` around `TinyDualEncoder`; make it with `load`."""

    def __init__(
        self, model: TinyDualEncoder, tokenizer: TinyTokenizer, *, digest: str, threads: int, max_pixels: int
    ) -> None:
        """Take a model in eval mode."""
        self._model = model
        self._tokenizer = tokenizer
        self._config = model.config
        self._threads = threads
        self._max_pixels = max_pixels
        self._digest = digest
        self._logit_scale = float(model.logit_scale.detach().double())
        self._logit_bias = float(model.logit_bias.detach().double())

    @property
    def digest(self) -> str:
        """Identity of weights, config, tokenizer and preprocessing."""
        return self._digest

    @property
    def width(self) -> int:
        """D."""
        return self._config.width

    @property
    def logit_scale(self) -> float:
        """The learned scale, as stored in fp32."""
        return self._logit_scale

    @property
    def logit_bias(self) -> float:
        """The learned bias, as stored in fp32."""
        return self._logit_bias

    @property
    def forward_flops_per_example(self) -> float:
        """FLOPs of both towers from the config."""
        return float(forward_flops_per_example(self._config))

    def prepare(self, a: bytes | None, b: bytes | None) -> PreparedRow:
        """Decode, resize and tokenize one pair, or raise BadRow; the picture is looked at first."""
        picture = open_picture(a, max_pixels=self._max_pixels)
        caption = read_caption(b)
        return PreparedRow(
            image=picture_to_pixels(picture, size=self._config.image_size),
            text=self._tokenizer.encode([caption], context_length=self._config.context_length)[0],
        )

    def blank(self) -> PreparedRow:
        """Return a black picture with one fixed caption."""
        side = self._config.image_size
        return PreparedRow(
            image=np.zeros((3, side, side), dtype=np.uint8),
            text=self._tokenizer.encode([_BLANK_CAPTION], context_length=self._config.context_length)[0],
        )

    @torch.inference_mode()
    def encode(self, rows: Sequence[PreparedRow]) -> Embeddings:
        """Run both towers once over all rows."""
        # torch keeps the number of threads per calling thread, so it is looked at here and not only when loading.
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        pixels_BCHW = torch.from_numpy(np.stack([row.image for row in rows]))
        tokens_BT = torch.from_numpy(np.stack([row.text for row in rows]))
        image_BD, text_BD = self._model(pixels_BCHW, tokens_BT)
        return Embeddings(image_BD=_unit_or_nan(image_BD.numpy()), text_BD=_unit_or_nan(text_BD.numpy()))


def load(files: Mapping[str, Path], *, threads: int, dtype: str, max_pixels: int = MAX_PIXELS) -> TinyEncoder:
    """Return the encoder of one set of files.

    The digest is sha256("superbatch-encoder-v1\\0" + family + "\\0" + PREPROCESS_VERSION + "\\0" + the sha256 of
    config, tokenizer and weights, 32 bytes each in this order).

    Raises: InvalidInput for threads or dtype; InvalidWeights, InvalidConfig, InvalidTokenizer for the files.
    """
    if threads < 1:
        raise InvalidInput(f"threads must be at least 1; got {threads}.")
    if dtype not in _DTYPES:
        raise InvalidInput(f"dtype must be one of {sorted(_DTYPES)}; got {dtype!r}.")
    config = TinyConfig.load(files["config"])
    model = initial_model(config, seed=0)
    check_size(files["weights"], model)
    contents = {role: files[role].read_bytes() for role in sorted(ROLES)}
    tokenizer = TinyTokenizer.from_bytes(contents["tokenizer"])
    check_fit(config, tokenizer)
    load_weights(model, contents["weights"])
    # Scale and bias are read before the cast: selection uses them in full precision.
    encoder = TinyEncoder(model.eval(), tokenizer, digest=_digest(contents), threads=threads, max_pixels=max_pixels)
    model.to(_DTYPES[dtype])
    return encoder


def _unit_or_nan(tower_BD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the rows with those marked as NaN that have no direction: weights of 0 or 1e30 give vectors of 0."""
    norm_B1 = np.linalg.norm(tower_BD, axis=1, keepdims=True)
    return np.where(np.abs(norm_B1 - 1.0) < MAX_NORM_ERROR, tower_BD, np.float32(np.nan))


def _digest(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(_DIGEST_PREFIX + b"tiny\0" + PREPROCESS_VERSION.encode() + b"\0")
    for role in sorted(contents):
        digest.update(hashlib.sha256(contents[role]).digest())
    return digest.hexdigest()
