"""NeuroNet's encoder: overlapping frames of a signal become tokens, and a transformer mixes them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.encoders.base import Encoder, Features
from medssl.encoders.blocks import parameters_by_prefix
from medssl.errors import ConfigError

__all__ = ["FrameNet", "NeuroNet", "frame_codes", "transformer_block"]

KERNELS = (3, 5, 7)
STEM = 32
BLOCKS = ((32, 32, 1), (32, 32, 1), (32, 48, 2), (48, 64, 2))  # channels in, channels out, stride
POOLS = (16, 11, 6)  # of the branches: what is left of 3 s at 100 Hz is 4, 3 and 1 places
SIZES = {"T": (512, 4), "B": (768, 4)}


class NeuroNet(Encoder):
    """NeuroNet (2024): a convolutional network over overlapping frames, and a transformer over the frames.

    Each frame goes through three residual branches of kernels 3, 5 and 7 and two linear layers; all frames of all
    windows are one batch (published: a loop over frames; with batch norms, training differs by whose statistics they
    take). Tokens get fixed codes of their places, and a class token is put before them.

    Pooled: the mean of the encoded frames, without the class token. One map (B, width, ceil(T / step)): at each place
    the frame whose middle is nearest, so that it lines up with the signal; the first and the last fill the borders.
    Signals of several channels go through one stem of as many channels, not one by one (``PerChannel`` does that).

    Args:
        in_channels: channels of the signal.
        frame: samples of a frame (published: 3 s at 100 Hz).
        step: samples from one frame to the next (published: 0.375 s at 100 Hz, 37).
        size: "T" is 512 wide, "B" 768; both of 4 blocks and 8 heads.
        width: D of the tokens, a multiple of 4, instead of the size's.
        depth: transformer blocks, instead of the size's.
        heads: attention heads; must divide the width.

    Raises:
        ConfigError: a frame that is too short for the branches, or numbers that do not fit each other.
    """

    def __init__(
        self,
        in_channels: int = 1,
        frame: int = 300,
        *,
        step: int = 37,
        size: Literal["T", "B"] = "T",
        width: int | None = None,
        depth: int | None = None,
        heads: int = 8,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ConfigError(f"NeuroNet comes in the sizes T and B, not '{size}'")
        width, depth = width or SIZES[size][0], depth or SIZES[size][1]
        if step < 1 or depth < 1 or heads < 1 or width % heads or width % 4:
            raise ConfigError(
                f"NeuroNet needs a step and depth of at least 1 and a width that is a multiple of 4 and of the heads, "
                f"not {step}, {depth}, {width} and {heads}"
            )
        self.in_channels, self.dims, self.depth = in_channels, 1, depth
        self.frame, self.step = frame, step
        self.out_dim, self.channels = width, (width,)
        self.strides, self.divisor, self.minimum = ((step,),), (1,), (frame,)
        self.backbone = FrameNet(in_channels, frame)
        self.token_dim = self.backbone.places * BLOCKS[-1][1] // 2
        self.tokenizer = nn.Sequential(
            nn.Linear(2 * self.token_dim, self.token_dim), nn.ELU(), nn.Linear(self.token_dim, self.token_dim)
        )
        self.embedding = nn.Linear(self.token_dim, width)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.blocks = nn.ModuleList(transformer_block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for part in (self.tokenizer, self.embedding, self.blocks):
            part.apply(initialise)

    def forward(self, x: Tensor) -> Features:
        """(B, C, T), T at least a frame → one map and the mean of the encoded frames."""
        encoded = self.encode(self.tokens(x))[:, 1:]
        places = self._nearest_frames(x.shape[2], encoded.shape[1]).to(encoded.device)
        return Features(encoded.float().mean(1), [encoded.transpose(1, 2).index_select(2, places)])

    def frame_count(self, length: int) -> int:
        """F, the frames of a window of so many samples; what is left after the last one is not seen.

        >>> NeuroNet(width=8, depth=1).frame_count(3000)
        73
        """
        return (length - self.frame) // self.step + 1

    def frames(self, x: Tensor) -> Tensor:
        """(B, C, T) → (B, F, C, frame), a view."""
        return x.unfold(2, self.frame, self.step).transpose(1, 2)

    def tokens(self, x: Tensor) -> Tensor:
        """What the convolutional network says of each frame: (B, C, T) → (B, F, token_dim)."""
        frames = self.frames(x)
        tokens: Tensor = self.tokenizer(self.backbone(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])
        return tokens

    def encode(self, tokens: Tensor, places: Tensor | None = None) -> Tensor:
        """The transformer, on all frames or some of them.

        Args:
            tokens: (B, F, token_dim).
            places: (B, K) int64, the frames that are seen; None: all.

        Returns:
            (B, 1 + K, width): the class token first, then the frames in the order of ``places``.
        """
        embedded = self.embedding(tokens)
        embedded = embedded + frame_codes(tokens.shape[1], self.out_dim).to(embedded)
        if places is not None:
            embedded = embedded.gather(1, places.unsqueeze(-1).expand(-1, -1, self.out_dim))
        # the class token stands at no place, whose code is 0
        sequence = torch.cat([self.class_token.to(embedded.dtype).expand(tokens.shape[0], -1, -1), embedded], 1)
        for block in self.blocks:
            sequence = block(sequence)
        encoded: Tensor = self.norm(sequence)
        return encoded

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Convolutions with the token layers and the embedding, then one group a block; the norm is with the last."""
        blocks = [(f"blocks.{i}.",) for i in range(self.depth - 1)]
        first = ("backbone.", "tokenizer.", "embedding.", "class_token")
        return parameters_by_prefix(self, [first, *blocks, (f"blocks.{self.depth - 1}.", "norm.")])

    def _nearest_frames(self, length: int, count: int) -> Tensor:
        """For each of ceil(length / step) places the frame whose middle is nearest to the place's."""
        places = torch.arange(-(-length // self.step))
        behind = (self.step - self.frame) / (2 * self.step)  # the first frame's middle lies so many steps later
        return (places + behind).round().long().clamp(0, count - 1)


class FrameNet(nn.Module):
    """Three residual branches over a frame, of kernels 3, 5 and 7, side by side at the end.

    All convolutions are padded by 1, so kernels 5 and 7 shorten the signal; the skips are cut at their end to fit. A
    stem halves the length twice before. 243,456 weights for one channel.

    Args:
        in_channels: C.
        frame: T.

    Attributes:
        places: of the three branches together after pooling (8 for 300 samples).

    Raises:
        ConfigError: nothing is left of the frame in the branch of the longest kernel.
    """

    def __init__(self, in_channels: int, frame: int) -> None:
        super().__init__()
        self.places = _places(frame)
        self.stem = nn.Sequential(
            nn.Conv1d(in_channels, STEM, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm1d(STEM),
            nn.ELU(),
            nn.MaxPool1d(3, stride=2, padding=1),
        )
        self.branches = nn.ModuleList(
            nn.Sequential(*(_Block(*widths, kernel=kernel) for widths in BLOCKS), nn.AvgPool1d(pool, stride=1))
            for kernel, pool in zip(KERNELS, POOLS, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T) → (N, 64 · places), the channel slowest."""
        stem = self.stem(x)
        joined: Tensor = torch.cat([branch(stem) for branch in self.branches], 2)
        return joined.flatten(1)


class _Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, *, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(c_in, c_out, kernel, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm1d(c_out)
        self.conv2 = nn.Conv1d(c_out, c_out, kernel, padding=1, bias=False)
        self.norm2 = nn.BatchNorm1d(c_out)
        self.skip: nn.Module = nn.Identity()
        if c_in != c_out or stride != 1:
            self.skip = nn.Sequential(nn.Conv1d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm1d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, T) → (N, c_out, T')."""
        y = self.norm2(self.conv2(functional.elu(self.norm1(self.conv1(x)))))
        return functional.elu(y + self.skip(x)[..., : y.shape[2]])


def frame_codes(count: int, width: int) -> Tensor:
    """Fixed codes (count, width) float32 of the frames' places, as published: [0…, 1…, sin(f ω_k)…, cos(f ω_k)…].

    A two-dimensional table on a grid of F × 1, of which half says nothing; ω_k = 10000^(-4k / width), k < width / 4.

    Args:
        count: F, frames.
        width: a multiple of 4.

    >>> frame_codes(2, 4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.0000, 1.0000, 0.8415, 0.5403]])
    """
    quarter = width // 4
    frequencies = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(count, dtype=torch.float64).unsqueeze(1) * frequencies
    return torch.cat([torch.zeros_like(angles), torch.ones_like(angles), angles.sin(), angles.cos()], 1).float()


def transformer_block(width: int, heads: int) -> nn.TransformerEncoderLayer:
    """A pre-norm block of a vision transformer: MLP of 4 · width, GELU, norms of eps 1e-6, no dropout."""
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )


def initialise(module: nn.Module) -> None:
    """Xavier's scale for linear layers and attention, as published."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.xavier_uniform_(module.in_proj_weight)


def _places(frame: int) -> int:
    """Places that the branches leave of a frame, together.

    >>> [64 * _places(seconds * 100) for seconds in (3, 4, 5)]
    [512, 1664, 2944]
    """
    left = []
    for kernel, pool in zip(KERNELS, POOLS, strict=True):
        length = ((frame - 1) // 2) // 2 + 1  # after the stem
        for _, _, stride in BLOCKS:
            length = (length + 2 - kernel) // stride + 1 + 3 - kernel
        left.append(length - pool + 1)
    if min(left) < 1:
        raise ConfigError(
            f"NeuroNet's frame of {frame} samples is too short for its branches, which need 289; lengthen frame, or "
            "prepare the cohort at a higher rate (published: 3 s at 100 Hz)"
        )
    return sum(left)
