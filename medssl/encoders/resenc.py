"""Residual U-Net encoder of nnU-Net ("ResEnc"), in plain torch, with the names of the released weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder, Features, mean_pool
from medssl.encoders.blocks import (
    ConvNormAct,
    average_pool,
    parameters_by_prefix,
    per_axis,
    refuse_single_voxel,
)
from medssl.errors import ConfigError, unknown_name

__all__ = ["PRESETS", "Preset", "ResEnc", "ResidualBlock"]


@dataclass(frozen=True)
class Preset:
    """Stages of a ``ResEnc``, fine to coarse.

    Attributes:
        features: channels of each stage.
        blocks: residual blocks of each stage.
        strides: stride at the entry of each stage, the same for all axes.
    """

    features: tuple[int, ...]
    blocks: tuple[int, ...]
    strides: tuple[int, ...]


PRESETS = {
    "tiny": Preset((16, 32, 64, 128), (1, 1, 1, 1), (1, 2, 2, 2)),
    "small": Preset((16, 32, 64, 128, 256), (1, 2, 2, 2, 2), (1, 2, 2, 2, 2)),
    "base": Preset((32, 64, 128, 256, 320), (1, 2, 3, 4, 4), (1, 2, 2, 2, 2)),
    "large": Preset((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6), (1, 2, 2, 2, 2, 2)),
}


class ResidualBlock(nn.Module):
    """conv3-norm-act-conv3-norm, plus the input (average-pooled and projected where needed), then act."""

    def __init__(self, dims: int, c_in: int, c_out: int, *, stride: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(dims, c_in, c_out, stride=stride)
        self.conv2 = ConvNormAct(dims, c_out, c_out, act=False)
        skip: list[nn.Module] = []
        if max(stride) > 1:
            skip.append(average_pool(stride))
        if c_in != c_out:
            skip.append(ConvNormAct(dims, c_in, c_out, kernel=1, bias=False, act=False))
        self.skip = nn.Sequential(*skip)
        self.act = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, *spatial) → (B, c_out, *spatial / stride)."""
        y: Tensor = self.act(self.conv2(self.conv1(x)) + self.skip(x))
        return y


class _Stage(nn.Module):
    def __init__(self, dims: int, c_in: int, c_out: int, *, blocks: int, stride: Sequence[int]) -> None:
        super().__init__()
        first = ResidualBlock(dims, c_in, c_out, stride=stride)
        rest = (ResidualBlock(dims, c_out, c_out, stride=(1,) * dims) for _ in range(blocks - 1))
        self.blocks = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(x)
        return y


class _Stem(nn.Module):
    def __init__(self, dims: int, c_in: int, c_out: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNormAct(dims, c_in, c_out))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convs(x)
        return y


class ResEnc(Encoder):
    """Residual encoder of nnU-Net (Isensee et al., 2024, "nnU-Net revisited"); ``"large"`` is the ResEnc-L of OpenMind.

    Maps: one a stage, (B, F_i, *spatial / S_i). Pooled: global mean of the last map, or of all maps concatenated.

    Args:
        in_channels: channels of the input.
        size: named preset; see ``PRESETS``. ``"tiny"`` and ``"small"`` train on a laptop.
        dims: spatial axes, 1 to 3.
        features: channels of each stage instead of the preset's.
        blocks: residual blocks of each stage instead of the preset's.
        strides: stride at the entry of each stage instead of the preset's; an integer or one integer an axis, so
            thick-slice volumes can keep their slices (``(1, (1, 2, 2), 2, 2)``).
        pool: ``"last"`` pools the deepest map, ``"all"`` concatenates the means of all maps (as VoCo does).

    Raises:
        ConfigError: unknown preset, or overrides of different lengths.
    """

    exports_any_size = True

    def __init__(
        self,
        in_channels: int = 1,
        size: Literal["tiny", "small", "base", "large"] = "small",
        *,
        dims: int = 3,
        features: tuple[int, ...] | None = None,
        blocks: tuple[int, ...] | None = None,
        strides: tuple[int | tuple[int, ...], ...] | None = None,
        pool: Literal["last", "all"] = "last",
    ) -> None:
        super().__init__()
        if size not in PRESETS:
            raise ConfigError(unknown_name("ResEnc size", size, PRESETS))
        if dims not in (1, 2, 3):
            raise ConfigError(f"ResEnc works on 1, 2 or 3 axes, not {dims}")
        preset = PRESETS[size]
        widths, depths = features or preset.features, blocks or preset.blocks
        steps = [per_axis(s, dims, "the stride") for s in (strides or preset.strides)]
        if not len(widths) == len(depths) == len(steps):
            raise ConfigError(
                f"features ({len(widths)}), blocks ({len(depths)}) and strides ({len(steps)}) of ResEnc must have one "
                "entry a stage; give all three"
            )
        self.in_channels, self.dims, self.pool = in_channels, dims, pool
        self.channels = tuple(widths)
        self.strides = tuple(
            tuple(math.prod(s[axis] for s in steps[: i + 1]) for axis in range(dims)) for i in range(len(steps))
        )
        self.divisor = self.strides[-1]
        # nnU-Net keeps several voxels along every pooled axis; two is the least that a mean and variance make sense of
        self.minimum = tuple(2 * s if s > 1 else 1 for s in self.strides[-1])
        self.out_dim = sum(widths) if pool == "all" else widths[-1]
        self.stem = _Stem(dims, in_channels, widths[0])
        inputs = (widths[0], *widths[:-1])
        self.stages = nn.Sequential(
            *(_Stage(dims, a, b, blocks=n, stride=s) for a, b, n, s in zip(inputs, widths, depths, steps, strict=True))
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Features:
        """(B, C, *spatial) → maps of every stage and their pooled vector."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pooled = mean_pool(x) if self.pool == "last" else torch.cat([mean_pool(m) for m in maps], 1)
        return Features(pooled, maps)

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``; also refuses sizes whose deepest map is one voxel."""
        super().check_input(channels, size)
        refuse_single_voxel(self, size)

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Stem, then one group a stage."""
        return parameters_by_prefix(self, [("stem.",), *((f"stages.{i}.",) for i in range(len(self.channels)))])


def _initialise(module: nn.Module) -> None:
    """He initialisation; the last norm of every residual block starts at 0, so each block starts as its skip."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):
        nn.init.zeros_(module.conv2.norm.weight)
