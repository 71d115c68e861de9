"""A U-Net decoder that fits any encoder: any number of maps, any strides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.encoders.base import Encoder
from medssl.encoders.blocks import ConvNormAct, convolution
from medssl.encoders.slice_wise import SliceWise
from medssl.errors import ConfigError

__all__ = ["Decoder", "finer_strides"]

WIDEST = 320
NARROWEST = 16


def finer_strides(stride: Sequence[int]) -> list[tuple[int, ...]]:
    """Strides of the levels to add above a map of ``stride``, fine to coarse, down to full resolution.

    Every level halves each even axis (an odd stride goes to 1 at once).

    >>> finer_strides((4, 8, 8))
    [(1, 1, 1), (1, 2, 2), (2, 4, 4)]
    """
    levels: list[tuple[int, ...]] = []
    current = tuple(stride)
    while max(current) > 1:
        current = tuple(s // 2 if s % 2 == 0 else 1 for s in current)
        levels.insert(0, current)
    return levels


class _Up(nn.Module):
    """Pointwise convolution, nearest-neighbour enlargement to the finer grid, then one convolution with the skip."""

    def __init__(self, dims: int, c_in: int, c_skip: int, c_out: int) -> None:
        super().__init__()
        self.reduce = convolution(dims, c_in, c_out, kernel=1, stride=(1,) * dims)
        self.merge = ConvNormAct(dims, c_out + c_skip, c_out)

    def forward(self, x: Tensor, skip: Tensor | None, size: torch.Size) -> Tensor:
        y = F.interpolate(self.reduce(x), size=tuple(size), mode="nearest")
        merged: Tensor = self.merge(y if skip is None else torch.cat([y, skip], 1))
        return merged


class Decoder(nn.Module):
    """From the coarsest map to full resolution, one level a map, with skip connections.

    Where the finest map is strided (vision transformers, patch stems), levels of halving stride are added above it
    without skips, and a small convolution of the input itself is the skip of the full-resolution level, as in UNETR
    (Hatamizadeh et al., 2022). Each level has one convolution, as the decoder of nnU-Net's ResEnc. The decoder of a
    ``SliceWise`` encoder works on slices too: with it, the network is the 2-D U-Net of each slice.

    Args:
        encoder: its ``channels`` and ``strides`` describe the maps.
        classes: K; None leaves the classifiers out, as pre-training does.
        channels: of each decoder level, fine to coarse (all levels but the coarsest map); None takes the channels of
            the map of that level, at most 320, halving towards full resolution in added levels (at least 16).
        deep_supervision: in training return logits of the three finest levels, else of the finest alone.
        blocks: how many levels there are, counted from the coarsest map; they have the names that they have in the
            whole decoder. None makes all.

    Attributes:
        strides: of each level that there is, fine to coarse.
        channels: of each level that there is, fine to coarse.

    Raises:
        ConfigError: ``channels`` of the wrong length, or more ``blocks`` than levels.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int | None,
        *,
        channels: Sequence[int] | None = None,
        deep_supervision: bool = False,
        blocks: int | None = None,
    ) -> None:
        super().__init__()
        self.slice_wise = isinstance(encoder, SliceWise)
        encoder = encoder.encoder if isinstance(encoder, SliceWise) else encoder
        dims, added = encoder.dims, finer_strides(encoder.strides[0])
        strides = [*added, *encoder.strides[:-1]]
        widths = _widths(encoder, len(added)) if channels is None else list(channels)
        if len(widths) != len(strides):
            raise ConfigError(
                f"decoder_channels has {len(widths)} entries but the decoder over {type(encoder).__name__} has "
                f"{len(strides)} levels of stride {strides} (fine to coarse)"
            )
        if blocks is not None and not 1 <= blocks <= len(strides):
            raise ConfigError(
                f"the decoder over {type(encoder).__name__} has {len(strides)} blocks, so {blocks} of them cannot be "
                "had; choose a number from 1 up to that, or an encoder of more stages"
            )
        first = 0 if blocks is None else len(strides) - blocks
        self.strides, self.channels = strides[first:], widths[first:]
        self.image_skip = ConvNormAct(dims, encoder.in_channels, widths[0]) if added and not first else None
        skips = [0] * len(added) + list(encoder.channels[:-1])
        if added:
            skips[0] = widths[0]
        inputs = [*widths, encoder.channels[-1]][1:]
        # keyed, not listed: the blocks of a part have the names, and so the weights, of those of the whole
        self.levels = nn.ModuleDict(
            {str(i): _Up(dims, inputs[i], skips[i], widths[i]) for i in range(first, len(strides))}
        )
        # a single full-resolution map needs no level: it is classified as it is
        outputs = self.channels or [encoder.channels[-1]]
        supervised = min(3, len(outputs)) if deep_supervision else 1
        self.outputs = nn.ModuleList(
            convolution(dims, w, classes, kernel=1, stride=(1,) * dims) for w in outputs[:supervised] if classes
        )
        self.added, self.first = len(added), first

    def forward(self, x: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits, fine to coarse; the first has the size of the input. Without classifiers, the map of every level.

        Args:
            x: (B, C, *spatial), what the encoder saw.
            maps: its maps, fine to coarse.
        """
        if self.slice_wise:
            slices = self._forward(_slices(x), [_slices(m) for m in maps])
            return [y.unflatten(0, (x.shape[0], -1)).transpose(1, 2) for y in slices]
        return self._forward(x, maps)

    def _forward(self, x: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
        y = maps[-1]
        decoded = [y] if not len(self.levels) else []
        for name, level in reversed(list(self.levels.items())):
            i = int(name)
            skip = maps[i - self.added] if i >= self.added else None
            if i == 0 and self.image_skip is not None:
                skip = self.image_skip(x)
            size = skip.shape[2:] if skip is not None else _size(x, self.strides[i - self.first])
            y = level(y, skip, size)
            decoded.insert(0, y)
        if not len(self.outputs):
            return decoded
        outputs = self.outputs if self.training else self.outputs[:1]
        return [out(level) for out, level in zip(outputs, decoded, strict=False)]


def _slices(x: Tensor) -> Tensor:
    """(B, C, Z, Y, X) → (B·Z, C, Y, X)."""
    return x.transpose(1, 2).flatten(0, 1)


def _size(x: Tensor, stride: Sequence[int]) -> torch.Size:
    return torch.Size(-(-s // d) for s, d in zip(x.shape[2:], stride, strict=True))


def _widths(encoder: Encoder, added: int) -> list[int]:
    own = [min(c, WIDEST) for c in encoder.channels[:-1]]
    finest = min(encoder.channels[0], WIDEST)
    above = [max(NARROWEST, finest // 2 ** (added - i)) for i in range(added)]
    return [*above, *own]
