"""Convolutions that see only a part of their input, computed by ordinary ones."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.views.corruption import enlarged

__all__ = ["refuse_dense", "sparse", "visible_norm"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_ZERO_STAYS_ZERO = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Identity)


def visible_norm(
    x: Tensor, visible: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float = 1e-5
) -> Tensor:
    """Instance norm with mean and variance of the visible places of each row and channel; the others become 0.

    Args:
        x: (B, C, *size), 0 where hidden.
        visible: (B, 1, *size) booleans.
        weight: (C,) scale, or None.
        bias: (C,) shift, or None.
        eps: added to the variance.

    Returns:
        Like ``x``, at least float32.
    """
    axes, shape = tuple(range(2, x.ndim)), (1, -1, *(1,) * (x.ndim - 2))
    with torch.autocast(x.device.type, enabled=False):
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = visible.sum(axes, keepdim=True).clamp_min(1)
        centred = (x - x.sum(axes, keepdim=True) / count).masked_fill(~visible, 0)
        scale = (centred.square().sum(axes, keepdim=True) / count + eps).rsqrt()
        normalised = centred * (scale if weight is None else scale * weight.view(shape))
        return normalised if bias is None else (normalised + bias.view(shape)).masked_fill(~visible, 0)


def refuse_dense(encoder: Encoder, name: str) -> None:
    """Refuse an encoder that ``sparse`` does not know to be blind to what is hidden.

    Args:
        encoder: see ``sparse``.
        name: of who asks, for the message.

    Raises:
        ConfigError: it has other parts than convolutions, instance norms, average pools and activations with f(0) = 0.
    """
    for module in encoder.modules():
        leaf = next(module.children(), None) is None and not isinstance(module, nn.Sequential | nn.ModuleList)
        if leaf and not (_is_norm(module) or isinstance(module, (*_CONVOLUTIONS, *_POOLS, *_ZERO_STAYS_ZERO))):
            raise ConfigError(
                f"{name} hides parts from convolutions with instance norms, as ResEnc has them; "
                f"{type(encoder).__name__} has {type(module).__name__}: choose ResEnc, or another method"
            )


@contextmanager
def sparse(encoder: nn.Module, visible: Tensor) -> Iterator[None]:
    """While it lasts, all parts of the encoder work on the visible places alone, as sparse convolutions do.

    What is hidden is 0 after every convolution and pool, and norms take their statistics over what is visible, so that
    hidden inputs and the shape of the mask change nothing (Tian et al., *SparK*, 2023). The input must be 0 where
    hidden. With everything visible it is the encoder itself.

    Args:
        encoder: see ``refuse_dense``.
        visible: (B, *grid) booleans; the encoder's maps are multiples of the grid.
    """
    known: dict[tuple[int, ...], Tensor] = {}

    def at(x: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        if size not in known:
            known[size] = enlarged(visible, size)
        return known[size]

    def hide(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.masked_fill(~at(output), 0)

    def norm(module: Any, x: Tensor) -> Tensor:
        return visible_norm(x, at(x), module.weight, module.bias, eps=module.eps)

    handles, replaced = [], []
    try:
        for module in encoder.modules():
            if isinstance(module, (*_CONVOLUTIONS, *_POOLS)):
                handles.append(module.register_forward_hook(hide))
            elif _is_norm(module):
                module.forward = functools.partial(norm, module)
                replaced.append(module)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in replaced:
            del module.forward


def _is_norm(module: nn.Module) -> bool:
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == module.num_channels
    return isinstance(module, _INSTANCE_NORMS) and not module.track_running_stats
