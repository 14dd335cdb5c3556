"""FLOPs and parameters of a dual encoder of two transformers, from its sizes alone.

A FLOP is an addition or a multiplication, so a multiply-add is 2. Counted are matrix products: patches, projections,
attention, the hidden layer. Not counted are norms, activations, softmax, token look-ups, each under 1%. Causal
attention is counted whole, as profilers count it.

Letters: T tokens, W width, H hidden width, D width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

COLOUR_CHANNELS = 3


@dataclass(frozen=True)
class Blocks:
    """A stack of transformer blocks: attention (4 products W x W), then a hidden layer (W x H and H x W)."""

    width: int
    layers: int
    hidden: int

    def multiply_adds(self, tokens: int) -> int:
        """Return layers * (4*T*W*W + 2*T*T*W + 2*T*W*H) for one sequence of T tokens."""
        T, W, H = tokens, self.width, self.hidden
        return self.layers * (4 * T * W * W + 2 * T * T * W + 2 * T * W * H)

    @property
    def parameters(self) -> int:
        """Weights and biases, the two norms of each block included."""
        W, H = self.width, self.hidden
        return self.layers * (4 * W * W + 4 * W + 2 * W * H + H + W + 4 * W)


@dataclass(frozen=True)
class ImageTower:
    """A vision transformer. CLIP adds a class token and projects it to D; SigLIP pools by attention, with D = W."""

    side_pixels: int
    patch_pixels: int
    blocks: Blocks
    pooling: Literal["class_token", "attention"]

    @property
    def patches(self) -> int:
        """Patches of a picture; a rest that fills no patch is cut off."""
        return (self.side_pixels // self.patch_pixels) ** 2

    @property
    def tokens(self) -> int:
        """Tokens of a picture in the blocks."""
        return self.patches + (self.pooling == "class_token")

    def multiply_adds(self, embedding_width: int) -> int:
        """Return those of one picture: patches, blocks, head."""
        W, T = self.blocks.width, self.tokens
        patches = self.patches * COLOUR_CHANNELS * self.patch_pixels**2 * W
        if self.pooling == "class_token":
            head = W * embedding_width
        else:  # one query; keys and values of T tokens; output; its own hidden layer
            head = 2 * T * W * W + 2 * W * W + 2 * T * W + 2 * W * self.blocks.hidden
        return patches + self.blocks.multiply_adds(T) + head

    def parameters(self, embedding_width: int) -> int:
        """Return the number of weights."""
        W, H = self.blocks.width, self.blocks.hidden
        count = COLOUR_CHANNELS * self.patch_pixels**2 * W + self.tokens * W + self.blocks.parameters
        if self.pooling == "class_token":  # class token, norms before and after the blocks, projection
            return count + W + 4 * W + W * embedding_width
        attention, hidden_layer = 4 * W * W + 4 * W, 2 * W * H + H + W
        return count + W + 2 * W + W + attention + 2 * W + hidden_layer


@dataclass(frozen=True)
class TextTower:
    """A transformer over a fixed number of tokens, one of which is projected to D."""

    tokens: int
    vocabulary: int
    blocks: Blocks
    projection_bias: bool = False

    def multiply_adds(self, embedding_width: int) -> int:
        """Return those of one caption, padded to all its tokens as in training."""
        return self.blocks.multiply_adds(self.tokens) + self.blocks.width * embedding_width

    def parameters(self, embedding_width: int) -> int:
        """Return the number of weights."""
        W = self.blocks.width
        projection = W * embedding_width + (embedding_width if self.projection_bias else 0)
        return self.vocabulary * W + self.tokens * W + self.blocks.parameters + 2 * W + projection


@dataclass(frozen=True)
class Architecture:
    """Both towers and D, the width of an embedding."""

    image: ImageTower
    text: TextTower
    embedding_width: int

    @property
    def image_forward_flops(self) -> int:
        """FLOPs of one picture through its tower."""
        return 2 * self.image.multiply_adds(self.embedding_width)

    @property
    def text_forward_flops(self) -> int:
        """FLOPs of one caption through its tower."""
        return 2 * self.text.multiply_adds(self.embedding_width)

    @property
    def forward_flops(self) -> int:
        """F, the FLOPs of one pair through both towers."""
        return self.image_forward_flops + self.text_forward_flops

    @property
    def parameters(self) -> int:
        """Weights of both towers, without logit scale and bias."""
        return self.image.parameters(self.embedding_width) + self.text.parameters(self.embedding_width)

    def with_patch(self, patch_pixels: int) -> Architecture:
        """Return the same model reading larger or smaller patches, as Flexi-JEST scores."""
        return replace(self, image=replace(self.image, patch_pixels=patch_pixels))
