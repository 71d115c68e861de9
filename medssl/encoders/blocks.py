"""Building blocks shared by the convolutional encoders and the segmentation decoder, for 1, 2 or 3 spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError

__all__ = [
    "ConvNormAct",
    "InstanceNorm",
    "average_pool",
    "convolution",
    "parameters_by_prefix",
    "per_axis",
    "refuse_single_voxel",
]

_CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_AVERAGE_POOLS: dict[int, type[nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d]] = {
    1: nn.AvgPool1d,
    2: nn.AvgPool2d,
    3: nn.AvgPool3d,
}


def convolution(
    dims: int, c_in: int, c_out: int, *, kernel: int, stride: Sequence[int], bias: bool = True
) -> nn.Module:
    """A convolution over ``dims`` axes that keeps the size for stride 1 (odd kernels)."""
    return _CONVOLUTIONS[dims](c_in, c_out, kernel, stride=tuple(stride), padding=kernel // 2, bias=bias)  # type: ignore[arg-type]


def average_pool(stride: Sequence[int]) -> nn.Module:
    """Average pooling by ``stride`` (one entry an axis), no overlap."""
    return _AVERAGE_POOLS[len(stride)](tuple(stride))  # type: ignore[arg-type]


def per_axis(value: int | Sequence[int], dims: int, name: str) -> tuple[int, ...]:
    """``value`` as one integer an axis.

    Raises:
        ConfigError: a sequence of another length, or an entry below 1.
    """
    values = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(values) != dims or any(v < 1 for v in values):
        raise ConfigError(f"{name} {value} does not fit {dims} axes; give one integer ≥ 1, or {dims} of them")
    return values


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation with scale and shift, computed as a group norm of one channel a group.

    The result and the names of the weights are those of ``nn.InstanceNorm{1,2,3}d(affine=True)``; the group-norm
    kernel is several times faster on a CPU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, eps=1e-5)


class ConvNormAct(nn.Module):
    """Convolution, instance norm and (unless ``act=False``) leaky ReLU of slope 0.01."""

    def __init__(
        self,
        dims: int,
        c_in: int,
        c_out: int,
        *,
        kernel: int = 3,
        stride: Sequence[int] | None = None,
        bias: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = convolution(dims, c_in, c_out, kernel=kernel, stride=stride or (1,) * dims, bias=bias)
        self.norm = InstanceNorm(c_out)
        self.act = nn.LeakyReLU(0.01, inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, *spatial) → (B, c_out, *spatial / stride)."""
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


def refuse_single_voxel(encoder: Encoder, size: Sequence[int]) -> None:
    """Refuse a size whose deepest map is a single voxel, which instance norm would turn into zeros.

    Raises:
        ConfigError: with the size and the total stride.
    """
    deepest = encoder.strides[-1]
    if math.prod(s // d for s, d in zip(size, deepest, strict=True)) < 2:
        raise ConfigError(
            f"{type(encoder).__name__} reduces a size of {tuple(size)} to a single voxel (total stride "
            f"{deepest}), which instance norm cannot normalise; use a larger crop"
        )


def parameters_by_prefix(module: nn.Module, prefixes: Sequence[Sequence[str]]) -> list[list[tuple[str, nn.Parameter]]]:
    """Named parameters in groups, one for each tuple of name prefixes; every parameter must land in one group.

    Raises:
        ValueError: a parameter that no prefix covers (a mistake in the encoder, not of the user).
    """
    groups: list[list[tuple[str, nn.Parameter]]] = [[] for _ in prefixes]
    for name, parameter in module.named_parameters():
        place = next((i for i, group in enumerate(prefixes) if name.startswith(tuple(group))), None)
        if place is None:
            raise ValueError(f"parameter '{name}' of {type(module).__name__} belongs to no layer group")
        groups[place].append((name, parameter))
    return [group for group in groups if group]
